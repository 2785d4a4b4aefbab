// Talks to a running `kvant serve` with OpenAI's client for Node.
//
//     node tools/clients/check.mjs http://127.0.0.1:8080 FOLDER
//
// FOLDER has the package: npm install --prefix FOLDER openai

import { createRequire } from "node:module";
import { resolve } from "node:path";

const [url, folder] = process.argv.slice(2);
const OpenAI = createRequire(resolve(folder, "node_modules", "x.js"))("openai").OpenAI;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });

function check(name, holds, shown) {
  console.log(`${holds ? "ok  " : "FAIL"} node: ${name}`);
  if (!holds) {
    console.error(JSON.stringify(shown));
    process.exit(1);
  }
}

const model = (await client.models.list()).data[0].id;
const schema = {
  type: "object",
  properties: { name: { type: "string", maxLength: 10 }, age: { type: "integer", minimum: 0, maximum: 120 } },
  required: ["name", "age"],
  additionalProperties: false,
};
const valid = (text) => typeof JSON.parse(text).name === "string" && Number.isInteger(JSON.parse(text).age);
const common = { model, messages: [{ role: "user", content: "안녕하세요! Say hello." }], max_completion_tokens: 16, temperature: 0 };

const whole = await client.chat.completions.create(common);
const text = whole.choices[0].message.content;
check("chat", typeof text === "string" && whole.usage.total_tokens > 0, whole);

let pieces = "";
let usage;
for await (const chunk of await client.chat.completions.create({ ...common, stream: true, stream_options: { include_usage: true } })) {
  pieces += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
check("stream equals chat", pieces === text && usage.total_tokens === whole.usage.total_tokens, { pieces, text });

const form = { type: "json_schema", json_schema: { name: "person", schema, strict: true } };
const shaped = await client.chat.completions.create({ ...common, max_completion_tokens: 120, response_format: form });
check("JSON Schema", valid(shaped.choices[0].message.content), shaped);

const tool = { type: "function", function: { name: "register", description: "Registers a person.", parameters: schema } };
const called = await client.chat.completions.create({ ...common, max_completion_tokens: 120, tools: [tool], tool_choice: "required", parallel_tool_calls: false });
check("tool", valid(called.choices[0].message.tool_calls[0].function.arguments), called);

const runner = client.chat.completions.stream({ ...common, max_completion_tokens: 120, tools: [tool], tool_choice: "required", parallel_tool_calls: false });
const final = await runner.finalChatCompletion();
check("streamed tool", final.choices[0].message.tool_calls[0].function.arguments === called.choices[0].message.tool_calls[0].function.arguments, final);

const response = await client.responses.create({ model, input: "Hello", max_output_tokens: 8, temperature: 0 });
check("response", response.output_text.length > 0, response);

const controller = new AbortController();
const long = await client.chat.completions.create({ ...common, max_completion_tokens: 400, stream: true }, { signal: controller.signal });
for await (const chunk of long) {
  if (chunk.choices[0].delta.content) break;
}
controller.abort();
check("stop", true);

try {
  await client.chat.completions.create({ ...common, messages: [] });
  check("errors", false);
} catch (error) {
  check("errors", error instanceof OpenAI.BadRequestError && error.message.includes("messages"), error);
}
