"""The pickles inside PyTorch's files, read by a machine that can call nothing.

A pickle is a program for a stack machine that may call any function by name. This
machine knows the opcodes that `torch.save` writes and the few names below, which it
interprets itself; it imports nothing, and anything else is an error. The opcodes are
decoded by the standard library's `pickletools`, which executes nothing.
"""

import pickletools
import reprlib
from typing import Any, BinaryIO, NamedTuple

from tljax.errors import WeightsError, quote

# A ResNet-152 takes 32,000 of them. A byte of a hostile file is an object in memory.
MAX_OPCODES = 500_000
# More numbers than any file holds; NumPy still counts their bytes in 64 bits.
MAX_COUNT = 2**48
MAX_AXES = 16

# Storage class -> NumPy's name of its elements.
STORAGES = {
    "torch FloatStorage": "float32",
    "torch DoubleStorage": "float64",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}


class Name(NamedTuple):
    """A function or class that a pickle names, as "module name"."""

    name: str


class Storage(NamedTuple):
    """A run of numbers in the file: `numel` elements of `dtype`, found under `key`."""

    dtype: str
    key: str
    numel: int
    offset: int = 0


class Tensor(NamedTuple):
    """A view of a storage; nothing of it has been checked or read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """NumPy's name of the elements."""
        return self.storage.dtype


def load(stream: BinaryIO) -> Any:
    """Returns the object that the pickle at the stream's position describes.

    It is made of dicts, lists, tuples, strings, numbers and `Tensor`s, and the stream
    stands behind it then. Raises WeightsError for anything else.
    """
    try:
        return run(stream)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"it is not a sound pickle: {quote(error)}") from None


def run(stream: BinaryIO) -> Any:
    """Returns what the machine's stack holds at the end of the program."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    work = 0
    for opcode, arg, _ in pickletools.genops(stream):
        work += 1
        if work > MAX_OPCODES:
            raise WeightsError(f"its pickle has more than {MAX_OPCODES:,} opcodes")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE"
                | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING"
            ):  # fmt: skip
                stack.append(arg)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop_from(stack, len(stack) - int(opcode.name[-1]))))
            case "TUPLE":
                stack.append(tuple(pop_from(stack, marks.pop())))
            case "APPEND":
                append(stack, [stack.pop()])
            case "APPENDS":
                append(stack, pop_from(stack, marks.pop()))
            case "SETITEM":
                set_items(stack, pop_from(stack, len(stack) - 2))
            case "SETITEMS":
                set_items(stack, pop_from(stack, marks.pop()))
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL":
                stack.append(known(arg))
            case "STACK_GLOBAL":
                module, name = pop_from(stack, len(stack) - 2)
                if not isinstance(module, str) or not isinstance(name, str):
                    raise WeightsError("a name in it is no text")
                stack.append(known(f"{module} {name}"))
            case "BINPERSID":
                stack.append(find_storage(stack.pop()))
            case "REDUCE":
                function, arguments = pop_from(stack, len(stack) - 2)
                # The same long list may be handed over again and again.
                work += len(arguments)
                work += sum(len(a) for a in arguments if isinstance(a, list))
                stack.append(CALLS[function.name](*arguments))
            case "BUILD":
                # An OrderedDict's attributes: `_metadata`, the versions of modules.
                state = stack.pop()
                if not isinstance(state, dict) or not isinstance(stack[-1], dict):
                    raise WeightsError("it sets attributes of what is no dict")
            case name:
                raise WeightsError(f"its pickle has the opcode {name}")
    raise WeightsError("its pickle has no end")


def pop_from(stack: list[Any], start: int) -> list[Any]:
    """Returns what stands on the stack from `start` on, and takes it off."""
    if not 0 <= start <= len(stack):
        raise WeightsError("its pickle takes more than there is")
    taken = stack[start:]
    del stack[start:]
    return taken


def append(stack: list[Any], items: list[Any]) -> None:
    """Appends items to the list on top of the stack."""
    if not isinstance(stack[-1], list):
        raise WeightsError("its pickle appends to what is no list")
    stack[-1].extend(items)


def set_items(stack: list[Any], items: list[Any]) -> None:
    """Puts keys and values, in turn, into the dict on top of the stack."""
    if not isinstance(stack[-1], dict) or len(items) % 2:
        raise WeightsError("its pickle puts items into what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # The hash of a deeply nested tuple would exhaust the C stack, and integers of
        # many bits may all have the same.
        if not isinstance(key, str | int | float | None):
            raise WeightsError(f"a key of a dict is a {type(key).__name__}")
        if isinstance(key, int) and abs(key) >= 2**60:
            raise WeightsError("a key of a dict is an int of more than 60 bits")
        stack[-1][key] = value


def known(name: str) -> Name:
    """Returns a name that is known here; raises WeightsError for any other."""
    if name in STORAGES or name in CALLS:
        return Name(name)
    raise WeightsError(
        f"it asks for {quote(name.replace(' ', '.'))}, which is no part of a state "
        "dict; save model.state_dict() alone"
    )


def find_storage(persistent: Any) -> Storage:
    """Returns the storage that a persistent id names.

    ("storage", class, key, device, number of elements) in the zip format; the legacy
    one has a sixth: None or (key, offset, number of elements) of a view.
    """
    if len(persistent) not in (5, 6):
        raise WeightsError("a storage of it has no known form")
    kind, of, key, _, numel, *view = persistent
    if kind != "storage" or not isinstance(of, Name) or not isinstance(key, str):
        raise WeightsError("a storage of it has no known form")
    offset = 0
    if view and view[0] is not None:
        _, offset, numel = view[0]
    check_counts(numel, offset)
    if of.name not in STORAGES:
        raise WeightsError(f"a storage of it is of {quote(of.name)}")
    return Storage(STORAGES[of.name], key, numel, offset)


def rebuild_tensor(storage, offset, shape, strides, *_) -> Tensor:
    """Returns the view that `torch._utils._rebuild_tensor_v2` makes."""
    if not isinstance(storage, Storage) or not len(shape) == len(strides) <= MAX_AXES:
        raise WeightsError("a tensor of it has no known form")
    check_counts(offset, *shape, *strides)
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def ordered_dict(pairs=()) -> dict[Any, Any]:
    """Returns what `OrderedDict` makes of nothing or, in Python 2, of a list of pairs.

    Its keys are checked as those of any other dict.
    """
    if pairs != () and not isinstance(pairs, list):
        raise WeightsError("an OrderedDict of it is made of no list")
    made: dict[Any, Any] = {}
    set_items([made], [item for key, value in pairs for item in (key, value)])
    return made


def rebuild_parameter(tensor, *_) -> Tensor:
    """Returns the tensor that is the data of a Parameter."""
    if not isinstance(tensor, Tensor):
        raise WeightsError("a parameter of it holds no tensor")
    return tensor


def check_counts(*counts: Any) -> None:
    """Raises WeightsError where sizes, strides or offsets are negative or no integers.

    numpy.lib.stride_tricks would follow them out of the storage.
    """
    for count in counts:
        if type(count) is not int or not 0 <= count <= MAX_COUNT:
            # repr() of tuples that share their elements may be longer than memory.
            found = quote(reprlib.repr(count))
            raise WeightsError(f"a size, stride or offset in it is none: {found}")


# What a pickle may call.
CALLS = {
    "collections OrderedDict": ordered_dict,
    "torch._utils _rebuild_tensor": rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": rebuild_tensor,
    "torch._utils _rebuild_parameter": rebuild_parameter,
}
