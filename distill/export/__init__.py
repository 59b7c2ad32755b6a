"""What a user deploys: a folder for transformers, ONNX in float and in integers.

The room is a function too: ``distill.export(student, ...)`` is :func:`distill.export.student.export`. Python puts a
package's rooms under its name as soon as one is imported, and would put this one in the place of a function.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *args: Any, **arguments: Any) -> dict[str, Any]:
        from distill.export.student import export

        return export(*args, **arguments)


sys.modules[__name__].__class__ = _Room
