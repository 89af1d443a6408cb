"""
The common tests of transformers as a package: `upstream.test_modeling_common` is the file that `fetch.py` unpacked.
They import a few modules that the source distribution leaves out; what these models need of those stands here.
"""

from fetch import tests_folder

if not (tests_folder() / "__init__.py").exists():
    raise ModuleNotFoundError(f"{tests_folder()} is not there yet: `make test-transformers` fetches it")
__path__.append(str(tests_folder()))
