"""The command line of the trainjob stage."""

from components.cli import start

if __name__ == "__main__":
    start("trainjob")
