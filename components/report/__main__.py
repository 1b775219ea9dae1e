"""The command line of the report stage."""

from components.cli import start

if __name__ == "__main__":
    start("report")
