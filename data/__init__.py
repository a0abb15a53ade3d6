"""The shipped sample; see README.md beside this file."""
