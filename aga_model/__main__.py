"""`python -m aga_model` is the command `aga`; so is `accelerate launch -m aga_model`."""

from .cli.main import app

if __name__ == "__main__":
    app(prog_name="aga")
