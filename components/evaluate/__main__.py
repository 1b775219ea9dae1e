"""The command line of the evaluate stage."""

from components.cli import start

if __name__ == "__main__":
    start("evaluate")
