"""What is read of files as people have them: no row is lost, and what cannot be read is named by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonargparse import ArgumentParser

from distill.core.internals.jsonargparse import may_import
from distill.core.utils.errors import UserError
from distill.data.arrow import column, kind
from distill.data.json_rows import read_json
from distill.data.plain_text import split_documents
from distill.data.reader import ReaderConfig, ReaderOptions, reader_config
from distill.data.sources import load

BOM = b"\xef\xbb\xbf"


def rows(path: Path, content: str | bytes, **reader: Any) -> Any:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    options = ReaderConfig(**reader) if reader else None
    return load(None, None, {"train": str(path)}, options).splits["train"].to_dict()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("plain.csv", "text,label\na,0\nb,1\n", [("a", "0"), ("b", "1")]),
        ("words.csv", "text,label\nNA,None\nnull,nan\n", [("NA", "None"), ("null", "nan")]),
        ("bom.csv", BOM + b"text,label\na,0\n", [("a", "0")]),
        ("wide.csv", "text,label\na,0\n".encode("utf-16"), [("a", "0")]),
        ("crlf.csv", "text,label\r\na,0\r\nb,1\r\n", [("a", "0"), ("b", "1")]),
        ("blank.csv", "text,label\n\na,0\n\n", [("a", "0")]),
        ("quoted.csv", 'text,label\n"a, b",0\n"say ""c""",1\n', [("a, b", "0"), ('say "c"', "1")]),
        ("broken line.csv", 'text,label\n"a\nb",0\nc,1\n', [("a\nb", "0"), ("c", "1")]),
        ("open.tsv", 'text\tlabel\n"a\t0\nb\t1\nc"\t1\nd\t0\n', [('"a', "0"), ("b", "1"), ('c"', "1"), ("d", "0")]),
        ("inside.tsv", 'text\tlabel\n"a" said b\t0\nc\t1\n', [('"a" said b', "0"), ("c", "1")]),
        ("inside.csv", 'text,label\n"a" said b,0\nc,1\n', [('"a" said b', "0"), ("c", "1")]),
        ("quoted.tsv", 'text\tlabel\n"a\tb"\t0\n"c\nd"\t1\n', [("a\tb", "0"), ("c\nd", "1")]),
    ],
)
def test_every_row_of_fields_is_read_as_it_is_written(tmp_path: Path, name: str, content: Any, expected: Any) -> None:
    found = rows(tmp_path / name, content)
    assert list(zip(found["text"], found["label"], strict=True)) == expected


def test_readers_do_as_they_are_told(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    assert rows(file, "text;label\na;0\n", sep=";") == {"text": ["a"], "label": ["0"]}
    assert rows(file, "a|?\nNA|1\n", sep="|", names=["t", "l"], na_values=["?"]) == {"t": ["a", "NA"], "l": [None, "1"]}
    assert rows(file, "text,label\né,0\n".encode("latin-1"), encoding="latin-1")["text"] == ["é"]
    assert rows(file, 'text,label\n"a,0\nb",1\n', quoting="none")["text"] == ['"a', 'b"']
    assert rows(file, 'text,label\n"a,0\nb",1\n', quoting="minimal")["text"] == ["a,0\nb"]
    assert rows(file, "text,label\n'a,b',0\nc\\,d,1\n", quotechar="'", escapechar="\\")["text"] == ["a,b", "c,d"]
    assert reader_config({"quoting": 3}) == ReaderConfig(quoting="none")


def test_a_header_where_names_are_given_is_no_row(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    with pytest.raises(UserError, match=r"line 1 is what data\.reader\.names are, and so a header"):
        rows(file, "text,label\na,0\n", names=["text", "label"])
    assert rows(file, "a,0\n", names=["text", "label"])["text"] == ["a"]
    assert rows(file, "text\nb\ntext\n")["text"] == ["b", "text"]  # of a single column it may be a text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,label\na,0\nb\n", r"line 3 has 1 fields, and there are 2 columns \(text, label\)"),
        ("a.csv", "text,label\na,0,\n", "line 2 has 3 fields"),
        (
            "b.csv",
            'text,label\n"say \\"c\\"",0\n',
            r"line 2 holds \\.: the backslash makes .* data\.reader\.escapechar",
        ),
        ("c.csv", 'text,label\nd,1\n"a, \\"c\\"",0\n', r"line 3 holds \\.: the backslash makes"),
        ("a.csv", 'text,label\n"a,0\nb",1\n', r"line 2 begins a field in quotation marks .* data\.reader\.quoting"),
        ("a.csv", "text;label\na;0\n", r"the header is a single column, 'text;label'.*--data\.reader\.sep ';'"),
        ("a.csv", "sep=;\ntext;label\n", r"line 1 tells a spreadsheet .*remove that line, .*--data\.reader\.sep ';'"),
        ("a.csv", "sep=,\r\ntext,label\r\n", r"\(sep=,\), and is no header.* remove that line\.$"),
        ("a.tsv", "text,label\na,0\n", r"--data\.reader\.sep ','"),
        ("a.csv", "text,label,text\na,0,b\n", "the column 'text' is named twice"),
        ("a.csv", "text, text\na,b\n", "the column 'text' is named twice"),
        ("a.csv", "text,label\na,0\ntext, label\nb,1\n", "line 3 is the header again"),
        ("a.csv", "text,label\n", "holds no data"),
        ("a.csv", "", "holds no data"),
        ("a.csv", b"PK\x03\x04\xff\x00", "it is a zip archive, as spreadsheets are"),
        ("a.csv", b"\x1f\x8b\x08\x00", "it is compressed"),
        ("a.csv", b"text,label\n\xe9,0\n", r"line 2 is no text in utf-8.*data\.reader\.encoding"),
        ("a.csv", b"text,label\na\0,0\n", "line 2 holds bytes that are no text"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": \n', "line 3 is no JSON"),
        ("a.jsonl", '{"text": "a"}\n3\n', "line 2 is no object, but 3"),
        ("a.jsonl", b"PK\x03\x04\xff\x00", "a zip archive"),
        ("a.json", '[{"text": "a"}, 3]', "row 2 is no object"),
        ("a.json", "[1,", "is no JSON"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b", "label": 1, "text": "c"}\n', "line 2 names the key 'text' twice"),
        ("a.jsonl", '{"text": "a", "more": {"x": 1, "x": 2}}\n', "line 1 names the key 'x' twice"),
        ("a.json", '[{"text": "a", "text": "b"}]', "names the key 'text' twice"),
        ("a.json", '{"rows": [\n{"text": "a",\n"text": "b"}]}', "names the key 'text' twice"),
        ("a.jsonl", "\n", "holds no data"),
        ("a.txt", " \n\n", "holds no text"),
        ("a.parquet", "no parquet", "cannot be read as a data set"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path: Path, name: str, content: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        rows(tmp_path / name, content)
    assert caught.value.key == "data.files.train"
    assert str(tmp_path / name) in str(caught.value)


def test_objects_are_read_one_a_line_in_a_list_or_inside_of_one(tmp_path: Path) -> None:
    objects = [{"text": "a", "label": 1}, {"text": "2020-01-01", "label": None}, {"text": "c"}]
    lines = "".join(json.dumps(one) + "\n" for one in objects)
    for content in (lines, BOM + lines.encode(), json.dumps(objects), json.dumps({"data": objects}, indent=1)):
        found = rows(tmp_path / "a.json", content)
        assert found == {"text": ["a", "2020-01-01", "c"], "label": [1, None, None]}


def test_a_column_of_several_kinds_is_named_with_the_first_two(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": null}\n{"text": "b", "label": 0}\n{"label": "1"}\n')
    source = load(None, None, {"train": str(tmp_path / "a.jsonl")})
    assert source.splits["train"].column_names == ["text"]
    assert source.mixed["label"].endswith("a.jsonl holds numbers (0 in row 2) and text ('1' in row 3)")


def test_an_integer_that_64_bits_do_not_hold_is_named_with_its_row(tmp_path: Path) -> None:
    for value, held in ((2**63 - 1, True), (2**63, False), (-(2**63), True), (-(2**63) - 1, False)):
        (tmp_path / "a.jsonl").write_text(f'{{"label": 0}}\n{{"label": {value}}}\n')
        source = load(None, None, {"train": str(tmp_path / "a.jsonl")})
        if held:
            assert source.splits["train"].to_dict() == {"label": [0, value]}
        else:
            assert f"a.jsonl holds {value} in row 2, more than 64 bits hold" in source.mixed["label"]


def test_a_file_without_a_row_is_one_message_in_every_format(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "full.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "train.parquet")
    for name, content in (("a.csv", "text,label\n"), ("a.jsonl", "\n"), ("a.json", "[]"), ("a.txt", "")):
        (tmp_path / name).write_text(content)
    for names in (["a.csv"], ["a.jsonl"], ["a.json"], ["a.txt"], ["train.parquet"]):
        with pytest.raises(UserError, match=r"holds no (data|text)") as caught:
            load(None, None, {"train": [str(tmp_path / name) for name in names]})
        assert (caught.value.key, caught.value.value) == ("data.files.train", str(tmp_path / names[-1]))
        assert caught.value.hint == "check the file"
    two = [str(tmp_path / name) for name in ("train.parquet", "full.parquet")]
    for names in (two, two[::-1]):
        source = load(None, None, {"train": names})
        assert source.splits["train"].to_dict() == {"text": ["a"]}
        assert source.notes == [f"{two[0]} of data.files.train holds no rows"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "train.parquet").rename(tmp_path / "folder" / "train.parquet")
    with pytest.raises(UserError, match="a parquet file in it holds no rows"):
        load(str(tmp_path / "folder"), None, None)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_that_one_file_lacks_is_null_there(tmp_path: Path, ending: str) -> None:
    parts = [{"text": ["a"], "label": ["x"]}, {"text": ["b"]}]
    for number, columns in enumerate(parts):
        path = tmp_path / f"{number}.{ending}"
        if ending == "parquet":
            pq.write_table(pa.table(columns), path)
        elif ending == "csv":
            path.write_text("\n".join([",".join(columns), ",".join(v[0] for v in columns.values()), ""]))
        else:
            path.write_text(json.dumps({name: v[0] for name, v in columns.items()}) + "\n")
    splits = load(None, None, {"a": [str(tmp_path / f"{n}.{ending}") for n in (0, 1)], "b": str(path)}).splits
    assert splits["a"].to_dict() == {"text": ["a", "b"], "label": ["x", None]}
    assert splits["b"].to_dict() == {"text": ["b"]}


@pytest.mark.parametrize(
    "text",
    ["a\nb\n\nc\n", "\n\na\n", "a\n \t\n\n\nb", "a\r\n\r\nb\r\n", "a", "a\n\n", "\n \n\na\n\n\nb\n\n"],
)
def test_documents_joined_are_the_text_again(text: str) -> None:
    for document in ("paragraph", "file"):
        assert "".join(split_documents(text, document)) == text
    parts = split_documents(text, "paragraph")
    assert all(part.strip() for part in parts)
    assert len(parts) == (1 if "b" not in text or "b\n\nc" in text else 2) + ("b\n\nc" in text)


def test_a_line_is_a_document_where_that_is_asked_for() -> None:
    assert split_documents("a\r\nb\n\nc\n", "line") == ["a", "b", "", "c"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reader": {"sepp": ","}}, r"data\.reader\.sepp = ',': readers have no such option. did you mean 'sep'"),
        ({"reader": {"names": "text"}}, r"data\.reader\.names = 'text': must be a list of texts"),
        ({"reader": {"sep": ", "}}, r"data\.reader\.sep = ', ': must be one character"),
        ({"reader": {"quoting": "all"}}, r"data\.reader\.quoting = 'all': must be 'minimal' or 'none'"),
        ({"reader": {"encoding": "utf-9"}}, r"data\.reader\.encoding = 'utf-9': no such encoding"),
        ({"reader": {"encoding": "undefined"}}, "no such encoding"),
        ({"reader": {"sep": "\n"}}, r"data\.reader\.sep = '\\n': a line break ends a row"),
        ({"reader": {"sep": '"'}}, r"data\.reader\.sep = '\"': must not be the quotation mark"),
        ({"reader": {"sep": ";"}}, r"data\.reader\.sep = ';': is for csv and tsv files"),
        ({"document": "page"}, r"data\.document = 'page': must be paragraph or file or line"),
        ({"document": "line"}, r"data\.document = 'line': is for \.txt files, and these are \.jsonl"),
    ],
)
def test_an_option_that_is_none_or_changes_nothing_is_refused(tmp_path: Path, options: Any, said: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=said):
        load(
            None,
            None,
            {"train": str(tmp_path / "a.jsonl")},
            reader_config(options["reader"]) if "reader" in options else None,
            options.get("document"),
        )


def test_names_that_are_given_twice_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(UserError, match="the column 'text' is named twice"):
        load(None, None, {"train": str(tmp_path / "a.csv")}, reader_config({"names": ["text", "text"]}))


def test_a_path_that_is_no_data_set_leads_to_what_is(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\na,0\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/d.py").write_text("")
    with pytest.raises(UserError, match=r"this is a file. give it by its split: data\.files: \{train: "):
        load(str(tmp_path / "t.csv"), None, None)
    with pytest.raises(UserError, match=r"holds a Python file .* found d\.py\). move the Python file away"):
        load(str(tmp_path / "d"), None, None)
    for name, said in (("d", "this is a folder"), ("t.csv.gz", "this is a packed file. unpack it")):
        with pytest.raises(UserError, match=said):
            load(None, None, {"train": str(tmp_path / name)})
    with pytest.raises(UserError, match=r"data\.reader = .*is for files of text"):
        load("distill:stdlib", None, None, ReaderConfig(sep=";"))


def test_quotation_marks_are_one_thing_in_all_files(tmp_path: Path) -> None:
    plain, quoted, bad = tmp_path / "train.tsv", tmp_path / "dev.tsv", tmp_path / "bad.tsv"
    plain.write_text('text\tlabel\n"a film\t0\n')
    quoted.write_text('text\tlabel\n"a film"\t1\n')
    bad.write_text('text\tlabel\n"a\tfilm"\t1\n')
    read = load(None, None, {"train": str(quoted), "validation": [str(plain)]})
    assert read.splits["train"]["text"][:] == ['"a film"']
    assert read.notes == [f"quotation marks are text (data.reader.quoting: none), as {plain} has them"]
    assert load(None, None, {"train": str(quoted)}).splits["train"]["text"][:] == ["a film"]
    with pytest.raises(UserError, match=r"line 2 has 3 fields, and there are 2 columns") as error:
        load(None, None, {"train": str(plain), "validation": str(bad)})
    assert error.value.key == "data.files.validation"


def test_what_a_reader_is_told_is_not_read_as_yaml_once_more() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--reader", type=ReaderOptions)
    given = {"na_values": ["?", "1e3", "~", "[]", "{}", "a: b", "null", 9], "sep": "?", "quoting": 3}
    with may_import([], []):
        assert parser.parse_object({"reader": given}).reader == given


def test_texts_that_arrow_keeps_as_views_are_texts(tmp_path: Path) -> None:
    view = pa.string_view()
    words = pa.array([["good", "film"], ["bad"]], pa.list_(view))
    table = pa.table({"text": pa.array(["good", "bad"], view), "words": words, "label": pa.array(["b", "a"], view)})
    pq.write_table(table, tmp_path / "train.parquet")
    for found in (load(None, None, {"train": str(tmp_path / "train.parquet")}), load(str(tmp_path), None, None)):
        read = found.splits["train"]
        assert read.to_dict() == {"text": ["good", "bad"], "words": [["good", "film"], ["bad"]], "label": ["b", "a"]}
        assert [kind(column(read, name)) for name in read.column_names] == ["text"] * 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_documents_and_lines_are_found_whatever_ends_a_line(end: str) -> None:
    text = f"one{end}two{end}{end} {end}three{end}"
    assert split_documents(text, "paragraph") == [f"one{end}two{end}{end} {end}", f"three{end}"]
    assert split_documents(text, "line") == ["one", "two", "", " ", "three"]


@pytest.mark.parametrize(("name", "indent"), [("chat.jsonl", None), ("chat.json", None), ("chat.json", 1)])
def test_a_file_of_one_chat_is_one_row_and_not_its_turns(name: str, indent: int | None, tmp_path: Path) -> None:
    file = tmp_path / name
    for turns in (
        [{"role": "user", "content": "two and two?"}, {"role": "assistant", "content": "four"}],
        [{"from": "human", "value": "two and two?"}, {"from": "gpt", "value": "four"}],
        [{"role": "assistant", "tool_calls": ["add(2, 2)"]}],
    ):
        for row in ({"chat": turns}, {"prompt": turns[:1], "completion": turns[1:], "id": 7}):
            file.write_text(json.dumps(row, indent=indent))
            table, _ = read_json(str(file), "data.files.train", ReaderConfig())
            assert table.to_pylist() == [row]


def test_a_role_is_a_column_like_any_other(tmp_path: Path) -> None:
    people = [{"role": "nurse", "text": "a"}, {"role": "smith", "text": "b"}]
    assert rows(tmp_path / "a.json", json.dumps({"people": people})) == {"role": ["nurse", "smith"], "text": ["a", "b"]}


def test_a_line_is_a_row_whatever_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"words": [{"text": "a"}], "id": 1}) + "\n")
    table, _ = read_json(str(file), "data.files.train", ReaderConfig())
    assert table.to_pylist() == [{"words": [{"text": "a"}], "id": 1}]
