// Tokens of texts as o200k counts them: a JSON array of texts on stdin, a JSON array of numbers on stdout.
import { Tiktoken } from "js-tiktoken/lite";
import o200k from "js-tiktoken/ranks/o200k_base";
import { readFileSync } from "node:fs";

const encoding = new Tiktoken(o200k);
const texts = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(texts.map((text) => encoding.encode(text).length)));
