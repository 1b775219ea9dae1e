"""The command line of the merge stage."""

from components.cli import start

if __name__ == "__main__":
    start("merge")
