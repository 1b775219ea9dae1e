"""The command line of the pretrain stage."""

from components.cli import start

if __name__ == "__main__":
    start("pretrain")
