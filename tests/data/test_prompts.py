"""Prompts from files: both kinds, what counts as a line, and what is refused."""

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.data import prompts


def written(tmp_path, content, name="prompts.txt"):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_one_a_line_without_blank_ones(tmp_path):
    file = written(tmp_path, "\ufeffa red star\r\n\n  an açaí\u2028bowl, 星 \n\t\na red star")
    assert prompts.read(file) == ["a red star", "an açaí\u2028bowl, 星", "a red star"]


def test_json_lines_may_hold_an_empty_prompt(tmp_path):
    file = written(tmp_path, '{"prompt": "a\\nstar", "id": 3}\n\n{"prompt": ""}\n', "p.jsonl")
    assert prompts.read(str(file)) == ["a\nstar", ""]


@pytest.mark.parametrize(
    "content",
    [
        'image,prompt\r\nCOCO_1.jpg,"A red star, left"\r\n\r\nCOCO_2.jpg,"a ""quoted"" star"\r\n',
        'file name,sentence\nCOCO_1.jpg,"A red star, left"\nCOCO_2.jpg,"a ""quoted"" star"\n',
        ',image_id,id,text\n0,9,1,"A red star, left"\n1,8,2,"a ""quoted"" star"\n',
        '\ufeffText,file\n"A red star, left",a.png\n"a ""quoted"" star",b.png\n',
    ],
)
def test_a_table_gives_its_column_of_prompts_without_the_header(tmp_path, content):
    """As BK-SDM's metadata.csv, and text2image-benchmark's captions."""
    assert prompts.read(written(tmp_path, content, "m.csv")) == ["A red star, left", 'a "quoted" star']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "a red star\na blue star\n", "begins with a red star: expected a header"),
        ("p.csv", "a.jpg,a star\nb.jpg,a circle\n", "begins with a.jpg, a star: expected a header"),
        ("p.csv", "name,score\na,1\n", "begins with name, score: expected a header"),
        ("p.csv", "prompt\n", "holds no prompt"),
        ("p.csv", '""', "holds no prompt"),
        ("p.csv", "name,prompt\na.png,x,y\n", "row 1 of .* no prompt or other columns"),
        ("p.csv", "name,prompt\na.png,\n", "row 1 of .* no prompt or other columns"),
        ("p.csv", 'name,prompt\na.png,"x\n', "is no CSV"),
        ("p.json", '["a star"]', "is no file of prompts"),
        ("p.tsv", "a\tb", "is no file of prompts"),
        ("p.txt", "", "holds no prompt"),
        ("p.jsonl", " \n\n", "holds no prompt"),
        ("p.txt", b"a star\n\xe9toile\n", "line 2, is no text in UTF-8"),
        ("p.txt", "a star".encode("utf-16"), "line 1, is no text in UTF-8"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": ', "line 2 cannot be read as JSON"),
        ("p.jsonl", '\n{"caption": "a"}', "object 1: its content: .* valid string"),
        ("p.jsonl", '{"prompt": 3}', "object 1: its content: .* valid string"),
        ("p.jsonl", '["prompt"]', "line 1: its content: .* valid dictionary"),
    ],
)
def test_what_holds_no_prompts_is_refused(tmp_path, name, content, message):
    with pytest.raises(BadInput, match=message):
        prompts.read(written(tmp_path, content, name))


def test_no_file_and_a_folder_are_refused(tmp_path):
    for place in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(BadInput, match=r"is no file here|is a folder"):
            prompts.read(place)
