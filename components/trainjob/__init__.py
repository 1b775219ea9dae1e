"""The trainjob stage."""
