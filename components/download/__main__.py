"""The command line of the download stage."""

from components.cli import start

if __name__ == "__main__":
    start("download")
