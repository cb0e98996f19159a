"""Support: requests with attachments, answered by page and by mail; help pages."""
