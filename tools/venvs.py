# What the scripts that make pages of docs/ share: models, builds, what they ran on, and virtual
# environments for what they compare godwit with. Each of those is made once, in
# $XDG_CACHE_HOME/godwit/venvs; removing the folder makes it anew.
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Name -> (arguments of pip, environment of the build unless the caller's says otherwise, programs
# that must be there). llama.cpp is built for this machine: no wheel that pip kept from another
# build will do. It takes ten minutes of two cores; torch, of PyPI, brings 5 GB of CUDA along.
VENVS = {
    'peers': (['--no-cache-dir', '--no-binary=llama-cpp-python', 'numpy',
               'ik-llama-cpp-python==0.1.5', 'llama-cpp-python==0.3.36'],
              {'CMAKE_ARGS': '-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF',
               'CMAKE_BUILD_PARALLEL_LEVEL': str(os.cpu_count())}, ['cc', 'c++']),
    'reference': (['-r', str(ROOT / 'tests/golden/requirements.txt')], {}, []),
}


def cache_folder():
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return Path(cache) / 'godwit'


def python_of(name):
    """The Python of a virtual environment, which is made if it is not there."""
    arguments, env, programs = VENVS[name]
    folder = cache_folder() / 'venvs' / name
    python, stamp = folder / 'bin' / 'python3', folder / 'complete'
    if not stamp.exists():
        missing = [p for p in programs if not shutil.which(p)]
        if missing:
            sys.exit(f'{folder}: needs {", ".join(missing)} to be built')
        print(f'making {folder}: pip install {" ".join(arguments)}', file=sys.stderr, flush=True)
        subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
        subprocess.run([python, '-m', 'pip', 'install', '-q', *arguments], check=True,
                       env={**env, **os.environ}, stdin=subprocess.DEVNULL)
        stamp.touch()
    return python


def model_file(name):
    return subprocess.run([ROOT / 'tools/model', name], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


def release_build(target='server/godwit'):
    """The folder of a release build in which `target` is up to date."""
    folder = ROOT / 'build'
    options = ['--buildtype=release', '-Db_ndebug=false']
    if (folder / 'build.ninja').exists():
        subprocess.run(['meson', 'configure', folder, *options], check=True)
    else:
        subprocess.run(['meson', 'setup', folder, ROOT, *options], check=True, stdout=sys.stderr)
    subprocess.run(['ninja', '-C', folder, target], check=True, stdout=sys.stderr)
    return folder


def machine():
    cpu = re.search(r'model name\s*: (.*)', Path('/proc/cpuinfo').read_text())
    return f'{cpu[1] if cpu else "unknown CPU"}, {os.cpu_count()} cores'


def commit():
    return subprocess.run(['git', '-C', ROOT, 'rev-parse', '--short', 'HEAD'], text=True,
                          stdout=subprocess.PIPE, check=False).stdout.strip()
