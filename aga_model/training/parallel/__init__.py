"""Several processes that train one model, and parameters that are shared out over them."""
