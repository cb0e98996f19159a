"""Only for development: the mail box page and the demo data. Never installed in production."""
