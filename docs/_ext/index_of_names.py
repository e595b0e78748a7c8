"""Sphinx's domain of Python names with an index of last components: most names of a signature are of no object of the site."""

from sphinx.domains.python import ObjectEntry, PythonDomain
from sphinx.environment import BuildEnvironment


class IndexedPythonDomain(PythonDomain):
    """Finds the same objects; does not look through all of them for a name that ends none."""

    _size, _ends = 0, frozenset[str]()

    def find_obj(
        self, env: BuildEnvironment, modname: str, classname: str, name: str, type: str | None, searchmode: int = 0
    ) -> list[tuple[str, ObjectEntry]]:
        if self._size != len(self.objects):
            self._size, self._ends = len(self.objects), frozenset(full.rpartition(".")[2] for full in self.objects)
        if name.removesuffix("()").rpartition(".")[2] not in self._ends:
            return []
        return super().find_obj(env, modname, classname, name, type, searchmode)
