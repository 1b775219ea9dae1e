"""The command line of the download stage."""

from components.cli import main
from components.download.stage import run

if __name__ == "__main__":
    main(run)
