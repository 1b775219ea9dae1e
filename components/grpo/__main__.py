"""The command line of the grpo stage."""

from components.cli import start

if __name__ == "__main__":
    start("grpo")
