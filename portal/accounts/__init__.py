"""Accounts: sign-up, sign-in, passwords, the captcha, deletion and export."""
