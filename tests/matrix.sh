#!/bin/sh
# Unit and integration tests on every Python from 3.10 that the PATH or pyenv has, each in a
# virtual environment of its own under .venvs/.
set -u
cd "$(dirname "$0")/.." || exit

# The newest Python 3.$1 there is; nothing if there is none. pyenv has a command on the PATH for
# each version that it knows, which fails unless that version is switched on.
python() {
    for candidate in "python3.$1" $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$1".*/bin/python \
        2>/dev/null | sort -rV) python3; do
        if "$candidate" -c "import sys; sys.exit(sys.version_info[:2] != (3, $1))" 2>/dev/null
        then
            echo "$candidate"
            return
        fi
    done
}

passed='' failed='' minor=10
while [ $minor -lt 30 ]; do
    python=$(python $minor)
    venv=.venvs/3.$minor
    if [ -n "$python" ]; then
        echo "== Python 3.$minor"
        if { [ -x $venv/bin/pip ] || "$python" -m venv --clear $venv; } &&
            $venv/bin/python -m pip --quiet --disable-pip-version-check install --use-pep517 \
                --editable '.[test]' &&
            $venv/bin/python -m pytest -q
        then passed="$passed 3.$minor"
        else failed="$failed 3.$minor"
        fi
    fi
    minor=$((minor + 1))
done
echo "passed:${passed:- none}; failed:${failed:- none}"
[ -z "$failed" ] && [ -n "$passed" ]
