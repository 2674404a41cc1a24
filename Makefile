.PHONY: up test lint bench lock
