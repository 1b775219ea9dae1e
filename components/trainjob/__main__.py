"""The command line of the trainjob stage."""

from components.cli import main
from components.trainjob.stage import run

if __name__ == "__main__":
    main(run)
