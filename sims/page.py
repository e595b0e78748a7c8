"""Pages of HTML: every name and number on them is text, whatever characters it holds; figures are embedded."""

import base64
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_jinja2() -> None:
    """Raises ModuleNotFoundError without jinja2, before the numbers of a page are computed."""
    import jinja2  # noqa: F401


def html_page(template: str, **values: object) -> str:
    """The template with the values escaped. Raises jinja2.UndefinedError where one is missing."""
    from jinja2 import Environment, StrictUndefined

    return Environment(autoescape=True, undefined=StrictUndefined).from_string(template).render(**values) + "\n"


def base64_of(figure: "Figure", form: str = "png", **options: Any) -> str:
    """A figure as the text of a data address."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, **options)
    return base64.b64encode(buffer.getvalue()).decode()
