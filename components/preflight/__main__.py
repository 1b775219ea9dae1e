"""The command line of the preflight stage."""

from components.cli import start

if __name__ == "__main__":
    start("preflight")
