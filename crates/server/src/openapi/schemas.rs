//! What bodies are made of, as far as it is checked before anything runs.

use serde_json::{Value, json};

/// By name.
pub(super) fn all() -> Value {
    json!({
        "Chat": with_options(&["model", "messages"], json!({
            "messages": { "type": "array", "minItems": 1, "items": { "$ref": "#/components/schemas/Message" } },
            "tools": { "type": "array", "items": { "$ref": "#/components/schemas/Tool" } },
            "tool_choice": { "anyOf": [{ "enum": ["auto", "none", "any", "required"] }, { "type": "object" }] },
            "parallel_tool_calls": { "type": "boolean" },
            "response_format": { "$ref": "#/components/schemas/ResponseFormat" },
            "logprobs": { "type": "boolean" },
            "top_logprobs": { "type": "integer", "minimum": 0, "maximum": 20 },
            "reasoning_effort": { "type": "string" },
        })),
        "Completion": with_options(&["model", "prompt"], json!({
            "prompt": { "$ref": "#/components/schemas/Texts" },
            "suffix": { "type": "string" },
            "echo": { "type": "boolean" },
            "logprobs": { "type": "integer", "minimum": 0, "maximum": 20 },
        })),
        "Fim": with_options(&["model", "prompt"], json!({
            "prompt": { "type": "string" },
            "suffix": { "type": "string" },
        })),
        "Embedding": {
            "type": "object",
            "required": ["model", "input"],
            "properties": {
                "model": { "type": "string" },
                "input": { "$ref": "#/components/schemas/Texts" },
                "encoding_format": { "enum": ["float", "base64"] },
                "dimensions": { "type": "integer", "minimum": 1 },
                "output_dimension": { "type": "integer", "minimum": 1 },
            },
        },
        "Messages": {
            "type": "object",
            "required": ["model", "messages", "max_tokens"],
            "properties": {
                "model": { "type": "string" },
                "max_tokens": { "type": "integer", "minimum": 1 },
                "messages": { "type": "array", "minItems": 1, "items": {
                    "type": "object",
                    "required": ["role", "content"],
                    "properties": { "role": { "enum": ["user", "assistant"] }, "content": { "$ref": "#/components/schemas/Content" } },
                } },
                "system": { "$ref": "#/components/schemas/Content" },
                "temperature": { "type": "number", "minimum": 0, "maximum": 1 },
                "top_p": { "type": "number", "exclusiveMinimum": 0, "maximum": 1 },
                "top_k": { "type": "integer", "minimum": 0 },
                "stop_sequences": { "type": "array", "maxItems": 64, "items": { "type": "string", "minLength": 1 } },
                "stream": { "type": "boolean" },
                "tools": { "type": "array", "items": {
                    "type": "object",
                    "required": ["name", "input_schema"],
                    "properties": { "name": { "type": "string" }, "description": { "type": "string" }, "input_schema": { "type": "object" } },
                } },
            },
        },
        "Message": {
            "type": "object",
            "required": ["role"],
            "properties": {
                "role": { "enum": ["system", "developer", "user", "assistant", "tool"] },
                "content": { "$ref": "#/components/schemas/Content" },
                "tool_calls": { "type": "array", "items": { "$ref": "#/components/schemas/ToolCall" } },
                "tool_call_id": { "type": "string" },
                "name": { "type": "string" },
                "prefix": { "type": "boolean" },
            },
        },
        "Content": { "anyOf": [
            { "type": "string" },
            { "type": "array", "items": {
                "type": "object",
                "required": ["type", "text"],
                "properties": { "type": { "const": "text" }, "text": { "type": "string" } },
            } },
        ] },
        "Tool": {
            "type": "object",
            "required": ["type", "function"],
            "properties": {
                "type": { "const": "function" },
                "function": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": { "type": "string", "minLength": 1 },
                        "description": { "type": "string" },
                        "parameters": { "type": "object" },
                        "strict": { "type": "boolean" },
                    },
                },
            },
        },
        "ToolCall": {
            "type": "object",
            "required": ["function"],
            "properties": {
                "id": { "type": "string" },
                "type": { "const": "function" },
                "function": {
                    "type": "object",
                    "required": ["name", "arguments"],
                    "properties": { "name": { "type": "string" }, "arguments": { "anyOf": [{ "type": "string" }, { "type": "object" }] } },
                },
            },
        },
        "ResponseFormat": { "anyOf": [
            { "type": "object", "required": ["type"], "properties": { "type": { "enum": ["text", "json_object"] } } },
            { "type": "object", "required": ["type", "json_schema"], "properties": {
                "type": { "const": "json_schema" },
                "json_schema": {
                    "type": "object",
                    "required": ["name", "schema"],
                    "properties": { "name": { "type": "string" }, "schema": { "type": "object" }, "strict": { "type": "boolean" } },
                },
            } },
        ] },
        "Texts": { "anyOf": [
            { "type": "string" },
            { "type": "array", "minItems": 1, "maxItems": 2048, "items": { "type": "string" } },
            { "type": "array", "minItems": 1, "items": { "type": "integer", "minimum": 0 } },
        ] },
        "Tokenize": {
            "type": "object",
            "required": ["prompt"],
            "properties": { "model": { "type": "string" }, "prompt": { "type": "string" }, "add_special_tokens": { "type": "boolean" } },
        },
        "Detokenize": {
            "type": "object",
            "required": ["tokens"],
            "properties": { "model": { "type": "string" }, "tokens": { "type": "array", "items": { "type": "integer", "minimum": 0 } } },
        },
        "Upload": {
            "type": "object",
            "required": ["file"],
            "properties": { "file": { "type": "string", "format": "binary" }, "purpose": { "type": "string" } },
        },
        "Job": {
            "type": "object",
            "required": ["model"],
            "properties": {
                "model": { "type": "string" },
                "training_files": { "type": "array", "items": {
                    "type": "object",
                    "required": ["file_id"],
                    "properties": { "file_id": { "type": "string" }, "weight": { "type": "number", "exclusiveMinimum": 0 } },
                } },
                "training_file": { "type": "string" },
                "validation_files": { "type": "array", "items": { "type": "string" } },
                "validation_file": { "type": "string" },
                "hyperparameters": { "type": "object" },
                "method": { "type": "object" },
                "suffix": { "type": "string" },
                "auto_start": { "type": "boolean" },
                "seed": { "type": "integer" },
                "metadata": { "type": "object" },
            },
        },
        "Tuned": {
            "type": "object",
            "properties": { "name": { "type": "string" }, "description": { "type": "string" } },
        },
        "Error": { "type": "object", "description": "In the shape of the dialect that was spoken." },
    })
}

/// A body with the options that every generating operation shares.
fn with_options(required: &[&str], own: Value) -> Value {
    let mut properties = json!({
        "model": { "type": "string" },
        "temperature": { "type": "number", "minimum": 0, "maximum": 2 },
        "top_p": { "type": "number", "exclusiveMinimum": 0, "maximum": 1 },
        "top_k": { "type": "integer", "minimum": -1, "maximum": u32::MAX },
        "min_p": { "type": "number", "minimum": 0, "maximum": 1 },
        "presence_penalty": { "type": "number", "minimum": -2, "maximum": 2 },
        "frequency_penalty": { "type": "number", "minimum": -2, "maximum": 2 },
        "repetition_penalty": { "type": "number", "minimum": 0.01, "maximum": 10 },
        "logit_bias": { "type": "object", "additionalProperties": { "type": "number", "minimum": -100, "maximum": 100 } },
        "seed": { "type": "integer" },
        "random_seed": { "type": "integer", "minimum": 0 },
        "max_tokens": { "type": "integer", "minimum": 0 },
        "max_completion_tokens": { "type": "integer", "minimum": 0 },
        "min_tokens": { "type": "integer", "minimum": 0 },
        "stop": { "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "array", "maxItems": 64, "items": { "type": "string", "minLength": 1 } },
        ] },
        "n": { "type": "integer", "minimum": 1, "maximum": 128 },
        "stream": { "type": "boolean" },
        "stream_options": { "type": "object", "properties": { "include_usage": { "type": "boolean" } } },
    });
    if let (Some(all), Value::Object(own)) = (properties.as_object_mut(), own) {
        all.extend(own);
    }
    json!({ "type": "object", "required": required, "properties": properties })
}
