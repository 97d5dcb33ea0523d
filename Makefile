.PHONY: check test slow floors format lint types

check: lint types test

test:
	python -m pytest

slow:
	python -m pytest -m slow

# The suite with the oldest Python and the oldest versions that setup.py allows.
floors: FLOORS = build/floors/bin/python
floors:
	python3.10 -m venv --clear build/floors
	$(FLOORS) -m pip install --no-deps -e .
	$(FLOORS) -c "from importlib.metadata import requires as r; \
	print(*(n.split(';')[0].replace('>=', '==') for n in r('resnext-det')), sep='\n')" \
	> build/floors/constraints.txt
	$(FLOORS) -m pip install -e '.[test]' -c build/floors/constraints.txt
	$(FLOORS) -m pytest

lint:
	ruff format --check .
	ruff check .

# Each system has names of its own, such as os.fork.
types:
	mypy
	mypy --platform win32
	mypy --platform darwin

format:
	ruff format .
	ruff check --fix .
