"""Hostile pickles in sound zip files, written opcode by opcode: PyTorch is not needed.

`HOSTILE` lists them by name, and those of the files beside it. What would run code
would make the file `canary` in the working directory.
"""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tljax import pretrained
from tljax.pretrained import torch_writer
from tljax.pretrained.torch_writer import integer, integers, text
from tljax.pretrained.weights import Weights

TOUCH = text("touch canary")
ORDERED_DICT = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
# Sixty times a tuple of the tuple before, twice: 2**60 words where it is printed.
EXPANDING = b")q\x00" + b"h\x00h\x00\x86q\x00" * 60
# Half of a character, which cannot be printed.
SURROGATE = b"X\x03\x00\x00\x00\xed\xa0\x80"


class Hostile(NamedTuple):
    """A file that cannot be used: its bytes, and words of the error."""

    suffix: str
    words: str
    make: Callable[[], bytes]


HOSTILE: dict[str, Hostile] = {}


def load(path: Path, arch: str = "resnet18") -> Weights:
    """Reads a file as everybody does."""
    return pretrained.load_weights(f"file:{path}", arch)


def assert_one_line(text: str, limit: int = 5000) -> None:
    """What is printed does no harm; `limit` leaves room for all names of a ResNet."""
    assert text.isprintable() and len(text) < limit, ascii(text[:500])


def hostile(words: str, suffix: str = ".pth"):
    """Registers a function that returns the bytes of a file."""

    def register(make: Callable[[], bytes]):
        HOSTILE[make.__name__] = Hostile(suffix, words, make)
        return make

    return register


def programs(words: str, **made: bytes) -> None:
    """Registers zip files with these programs for their pickle."""
    for name, program in made.items():
        HOSTILE[name] = Hostile(".pth", words, lambda program=program: pack(program))


def pack(program: bytes, storage: bytes = bytes(16), **records: bytes) -> bytes:
    """Returns a file in the zip format with one storage, called 0."""
    return zipped({"data.pkl": b"\x80\x02" + program, "data/0": storage, **records})


def zipped(records: dict[str, bytes], edit=lambda info: None) -> bytes:
    """Returns a zip file; `edit` changes what the central directory says."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in records.items():
            torch_writer.add(archive, name, data)
        for info in archive.infolist():
            edit(info)
    return file.getvalue()


def number(value: int) -> bytes:
    """Returns the opcode for a whole number of any size."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    """Returns opcodes for a tuple of whole numbers of any size."""
    return b"(" + b"".join(map(number, values)) + b"t"


def stored(
    numel: int = 4,
    key: str = "0",
    kind: bytes = b"ctorch\nFloatStorage\n",
    view: bytes = b"",
) -> bytes:
    """Returns opcodes for a storage."""
    head = b"(" + text("storage") + kind + text(key) + text("cpu")
    return head + number(numel) + view + b"tQ"


def tensor(
    offset: bytes = integer(0),
    shape: bytes = integers([4]),
    strides: bytes = integers([1]),
    storage: bytes | None = None,
) -> bytes:
    """Returns opcodes for a tensor, a sound one where nothing is said."""
    storage = stored() if storage is None else storage
    return REBUILD + b"(" + storage + offset + shape + strides + b"\x89" + b"NtR"


def named(*values: bytes) -> bytes:
    """Returns the program of a state dict {"a": ..., "b": ..., ...}."""
    pairs = zip("abcdefghij", values, strict=False)
    return b"}(" + b"".join(text(name) + value for name, value in pairs) + b"u."


# Pickles that call or name what is no part of a state dict.
programs(
    "no part of a state dict",
    calls_os_system=b"cos\nsystem\n(" + TOUCH + b"tR.",
    calls_posix_system=b"cposix\nsystem\n(" + TOUCH + b"tR.",
    calls_eval=b"cbuiltins\neval\n(" + text("open('canary', 'w')") + b"tR.",
    calls_python_2_exec=b"c__builtin__\nexec\n(" + text("open('canary','w')") + b"tR.",
    calls_popen=b"csubprocess\nPopen\n((" + TOUCH + b"ltR.",
    calls_getattr=b"cbuiltins\ngetattr\n(cos\nsystem\n" + text("__call__") + b"tR.",
    makes_an_object_by_copyreg=b"ccopyreg\n_reconstructor\n(cos\nsystem\nNNtR.",
    holds_a_module=named(b"ctorch.nn.modules.conv\nConv2d\n)R"),
    holds_a_numpy_array=named(b"cnumpy.core.multiarray\n_reconstruct\n)R"),
    names_eval_from_the_stack=text("builtins") + text("eval") + b"\x93.",
    names_an_attribute_of_a_known_name=(
        text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93."
    ),
    names_terminal_escapes=text("x\r\n\x1b[2J\u202e") + SURROGATE + b"\x93.",
)
programs("a name in it is no text", names_what_prints_endlessly=EXPANDING + b"NN\x93.")
programs("opcode INST", calls_by_inst=b"(" + TOUCH + b"ios\nsystem\n.")
programs("no part of a state dict", calls_by_obj=b"(cos\nsystem\n" + TOUCH + b"o.")
programs("opcode EXT1", calls_by_extension=b"\x82\x01)R.")
programs("opcode NEWOBJ", makes_an_object=ORDERED_DICT + b")\x81.")
programs("opcode PERSID", names_a_storage_in_text=b"P0\n.")
programs(
    "not a sound pickle",
    calls_a_storage_class=b"ctorch\nFloatStorage\n)R.",
    calls_a_dict=b"}}R.",
    calls_a_tensor=tensor() + b")R.",
    calls_a_storage=stored() + b")R.",
    rebuilds_without_arguments=REBUILD + b")R.",
    is_an_empty_pickle=b".",
    remembers_nothing_far_away=b"r\x00\x00\x00\x80.",
    recalls_what_was_never_there=b"j\x00\x00\x00\x80.",
    claims_a_text_of_2_gib=b"X\x00\x00\x00\x80abc.",
    claims_a_text_of_4_gib=b"X\xff\xff\xff\xffabc.",
    claims_a_long_of_2_gib=b"\x8b\xff\xff\xff\x7fabc.",
    claims_bytes_of_8_eib=b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    names_a_storage_by_a_number=b"K\x00Q.",
)
programs("takes more than there is", takes_from_below_a_mark=b"NN(\x86t.")
programs("before seeing STOP", stops_in_the_middle=b"}(")
programs(
    "no known form",
    names_a_storage_by_a_dict=b"}Q.",
    names_a_storage_by_its_letters=text("store") + b"Q.",
    names_no_storage=b"(" + text("module") + b"N" + text("0") + b"NNtQ.",
    rebuilds_a_dict=named(tensor(storage=b"}")),
    has_more_sizes_than_strides=named(tensor(shape=integers([4, 1]))),
    has_a_storage_of_an_expanding_kind=b"("
    + text("storage") + EXPANDING + text("0") + b"NK\x04tQ.",
    has_sizes_of_a_thousand_axes=named(
        tensor(shape=integers([1] * 1000), strides=integers([1] * 1000))
    ),
)  # fmt: skip
programs("holds no tensor", has_an_empty_parameter=(
    named(b"ctorch._utils\n_rebuild_parameter\n(}\x89NtR")
))  # fmt: skip
programs("is of collections", has_a_storage_of_dicts=stored(kind=ORDERED_DICT) + b".")
programs(
    "a size, stride or offset",
    has_a_negative_size=named(tensor(shape=numbers(-4))),
    has_a_negative_stride=named(tensor(strides=numbers(-1))),
    has_a_negative_offset=named(tensor(offset=number(-1))),
    has_a_negative_storage=named(tensor(storage=stored(-1))),
    has_a_negative_view=named(
        tensor(storage=stored(view=b"(" + text("v") + numbers(-1, 4)[1:]))
    ),
    has_a_size_that_is_true=named(tensor(shape=b"\x88\x85")),
    has_a_size_that_is_no_integer=named(
        tensor(shape=b"G" + struct.pack(">d", 4) + b"\x85")
    ),
    has_sizes_that_expand=named(EXPANDING + tensor(shape=b"h\x00h\x00\x86\x85")),
    has_a_size_of_2000_bits=named(tensor(shape=numbers(2**2000))),
    has_a_stride_of_2000_bits=named(tensor(shape=numbers(1), strides=numbers(2**2000))),
    has_a_storage_of_exbibytes=named(tensor(storage=stored(2**61))),
    has_a_storage_of_2000_bits=named(tensor(storage=stored(2**2000))),
)
programs(
    "needs",
    has_a_storage_that_is_not_there=named(tensor(storage=stored(key="1"))),
    has_a_storage_outside_of_the_zip=named(tensor(storage=stored(key="../version"))),
    has_a_storage_of_terabytes=named(tensor(storage=stored(2**40))),
    has_a_storage_longer_than_its_record=named(tensor(storage=stored(5))),
)
programs(
    "reaches to element",
    has_an_offset_behind_its_storage=named(tensor(offset=integer(1))),
    has_a_stride_out_of_its_storage=named(tensor(strides=integers([2]))),
    has_a_size_out_of_its_storage=named(tensor(shape=integers([5]))),
)
programs(
    "its tensors claim",
    repeats_a_number_for_terabytes=named(
        tensor(shape=numbers(2**40), strides=integers([0]))
    ),
    repeats_a_number_for_more_bytes_than_words_have=named(
        tensor(shape=numbers(*[2**48] * 16), strides=integers([0] * 16))
    ),
)
programs("sets attributes", sets_attributes_of_a_tensor=named(tensor() + b"}b"))
programs("sets attributes", sets_a_state_that_is_no_dict=b"}](}}eb.")
programs("puts items into", puts_items_into_a_tensor=tensor() + b"NNs.")
programs("puts items into", puts_items_into_what_is_odd=b"}(NNNu.")
programs("appends to", appends_to_a_tensor=tensor() + b"Na.")
programs(
    "a key of a dict is",
    has_a_key_that_is_a_list=b"}]Ns.",
    has_a_key_that_is_a_tuple=b"})Ns.",
    has_a_key_that_is_a_class=b"}ctorch\nFloatStorage\nNs.",
    has_a_key_that_is_a_list_by_call=ORDERED_DICT + b"]]]aNaa\x85R.",
    has_a_key_that_is_a_tuple_by_call=ORDERED_DICT + b"]])aNaa\x85R.",
    has_a_key_of_100_bits=b"}" + number(2**100) + b"Ns.",
)
programs(
    "holds no state dict",
    holds_itself=b"}q\x00"
    + text("state_dict")
    + b"h\x00s"
    + text("model")
    + b"h\x00s.",
    holds_nothing=b"}.",
    has_names_that_are_numbers=b"}K\x01" + tensor() + b"s.",
    has_names_with_terminal_escapes=b"}("
    + text("a\nb\x1b[2J\u202e")
    + b"N"
    + SURROGATE
    + b"Nu.",
)
programs("holds a list", holds_a_list_of_itself=b"]q\x00h\x00a.")
programs("holds a Tensor", holds_one_tensor=tensor() + b".")
programs("holds a NoneType", holds_none=b"N.")


def program(words: str):
    """Registers a function that returns the program of a zip file's pickle."""

    def register(make: Callable[[], bytes]):
        HOSTILE[make.__name__] = Hostile(".pth", words, lambda: pack(make()))
        return make

    return register


@program("holds a list")
def nests_lists():
    return b"]" * 100_000 + b"a" * 99_999 + b"."


@program("holds a tuple")
def nests_tuples():
    return b")" + b"\x85" * 100_000 + b"."


@program("a key of a dict is")
def nests_tuples_in_a_key():
    return b"})" + b"\x85" * 250_000 + b"Ns."


@program("a key of a dict is")
def nests_tuples_in_a_key_by_call():
    return ORDERED_DICT + b"]])" + b"\x85" * 250_000 + b"aNaa\x85R."


@program("a size, stride or offset")
def nests_tuples_in_a_size():
    return named(tensor(shape=b")" + b"\x85" * 100_000))


@program("a name in it is no text")
def nests_tuples_in_a_name():
    return b")" + b"\x85" * 100_000 + b"N\x93."


@program("opcodes")
def has_a_flood_of_dicts():
    return b"}" * 4_000_000 + b"."


@program("opcodes")
def copies_a_dict_again_and_again():
    pairs = b"".join(b"](" + integer(n) + b"Ne" for n in range(20_000))
    arguments = b"](" + pairs + b"e\x85q\x01"
    return ORDERED_DICT + b"q\x00" + arguments + b"h\x00h\x01R" * 100_000 + b"."


@program("opcodes")
def hands_over_the_same_arguments_again_and_again():
    arguments = b"(" + tensor() + b"N" * 50_000 + b"tq\x01"
    parameter = b"ctorch._utils\n_rebuild_parameter\nq\x00"
    return parameter + arguments + b"h\x00h\x01R" * 100_000 + b"."


@program("no known form")
def names_the_same_storage_again_and_again():
    return stored(view=b"N" * 50_000 + b"tq\x01")[:-2] + b"Qh\x01" * 100_000 + b"."


@program("no known form")
def uses_one_list_of_sizes_again_and_again():
    sizes = b"](" + integer(0) * 50_000 + b"eq\x00"
    return sizes + tensor(shape=b"h\x00", strides=b"h\x00") * 5_000 + b"."


@program("a key of a dict is")
def has_keys_of_one_hash():
    """To find one of them is to compare it with all others."""
    keys = (number(n * (2**61 - 1)) for n in range(60_000))
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u."


@program("holds no state dict")
def holds_one_state_dict_100_000_times():
    """To look through it each time takes hours."""
    state = (
        b"}(" + text("x") + tensor() + b"q\x01" + names(100_000, b"h\x01") + b"uq\x02"
    )
    return state + b"}(" + names(100_000, b"h\x02") + b"u."


@program("tensors, too many")
def has_a_flood_of_tensors():
    empty = tensor(shape=integers([0]))
    return b"}(" + text("x") + empty + b"q\x01" + names(40_000, b"h\x01") + b"u."


@program("it holds several networks: 0., 1., 10., ")
def holds_3000_networks():
    block = "layer1.0.conv1.weight"
    state = b"".join(text(f"{n}.{block}") + b"h\x01" for n in range(3000))
    return b"}(" + text(block + "s") + tensor() + b"q\x01" + state + b"u."


@program("its tensors claim")
def has_a_thousand_views_of_one_storage():
    return b"}(" + text("x") + tensor() + b"q\x01" + names(1000, b"h\x01") + b"u."


@program("its pickle has")
def has_a_pickle_of_10_mib():
    """Python takes four bytes for each character of a text that holds this one."""
    return b"X" + struct.pack("<I", 10 * 2**20) + "💣".encode() + b"a" * (10 * 2**20)


def names(count: int, value: bytes) -> bytes:
    """Returns opcodes for so many names, each with the same value."""
    return b"".join(text(f"{n:x}") + value for n in range(count))
