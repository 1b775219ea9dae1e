"""The command line of the release stage."""

from components.cli import start

if __name__ == "__main__":
    start("release")
