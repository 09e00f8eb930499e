#!/bin/sh
# Unit and integration tests on every Python from 3.10 that the PATH or pyenv has, free-threaded
# builds (3.13t and later) too, each in a virtual environment of its own under .venvs/.
set -u
cd "$(dirname "$0")/.." || exit

# The newest Python 3.$1 there is, $2 (a "t") being for a free-threaded build; nothing if there is
# none. pyenv has a command on the PATH for each version that it knows, which fails unless that
# version is switched on.
python() {
    for candidate in "python3.$1$2" \
        $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$1".*/bin/python 2>/dev/null | sort -rV) \
        python3; do
        if "$candidate" -c "import sys, sysconfig; sys.exit((sys.version_info[:2], bool(
sysconfig.get_config_var('Py_GIL_DISABLED'))) != ((3, $1), '$2' == 't'))" 2>/dev/null
        then
            echo "$candidate"
            return
        fi
    done
}

passed='' failed='' minor=10
while [ $minor -lt 30 ]; do
    for kind in '' t; do
        python=$(python $minor $kind)
        venv=.venvs/3.$minor$kind
        if [ -n "$python" ]; then
            echo "== Python 3.$minor$kind"
            if { [ -x $venv/bin/pip ] || "$python" -m venv --clear $venv; } &&
                $venv/bin/python -m pip --quiet --disable-pip-version-check install --use-pep517 \
                    --editable '.[test]' &&
                $venv/bin/python -m pytest -q
            then passed="$passed 3.$minor$kind"
            else failed="$failed 3.$minor$kind"
            fi
        fi
    done
    minor=$((minor + 1))
done
echo "passed:${passed:- none}; failed:${failed:- none}"
[ -z "$failed" ] && [ -n "$passed" ]
