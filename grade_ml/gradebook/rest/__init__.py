"""OneRoster over HTTP.

`client` speaks it, `export` writes its answers as OneRoster CSV, `sync` keeps the gradebook up to
date with a server. Reading the CSV belongs to `gradebook.oneroster`.
"""
