.PHONY: check test slow format lint types

check: lint types test

test:
	python -m pytest

slow:
	python -m pytest -m slow

lint:
	ruff format --check .
	ruff check .

types:
	mypy

format:
	ruff format .
	ruff check --fix .
