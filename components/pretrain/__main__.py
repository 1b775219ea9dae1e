"""The command line of the pretrain stage."""

from components.cli import main
from components.pretrain.stage import run

if __name__ == "__main__":
    main(run)
