"""The versioned HTTP interface for applications."""
