"""The command line of the dpo stage."""

from components.cli import start

if __name__ == "__main__":
    start("dpo")
