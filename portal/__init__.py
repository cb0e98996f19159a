"""The account portal: a web service that anyone can host. README.md tells its decisions."""
