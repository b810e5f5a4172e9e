"""GitHub workflows that gate pull requests on a GPU runner: written, updated, checked."""
