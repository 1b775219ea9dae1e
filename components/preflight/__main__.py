"""The command line of the preflight stage."""

from components.cli import main
from components.preflight.stage import run

if __name__ == "__main__":
    main(run)
