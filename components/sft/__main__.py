"""The command line of the sft stage."""

from components.cli import start

if __name__ == "__main__":
    start("sft")
