-- One chat completion again and again; the arguments after `--`: "stream" or "non-streaming", key, model.
-- Prints at the end what gateway.py reads: counts, bytes, microseconds, latency percentiles, errors.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local stream = args[1] == "stream"
  wrk.method = "POST"
  wrk.path = "/v1/chat/completions"
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Authorization"] = "Bearer " .. args[2]
  wrk.body = string.format(
    '{"model":"%s","messages":[{"role":"user","content":"What is the capital of France?"}],"max_tokens":512,"stream":%s}',
    args[3], tostring(stream))
  request_bytes = wrk.format()
end

function request()
  return request_bytes
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT %d %d %d %d %d %d %d %d %d %d\n",
    summary.requests, summary.bytes, summary.duration,
    errors.status, errors.connect + errors.read + errors.write, errors.timeout,
    latency.min, latency:percentile(50), latency:percentile(99), latency.max))
end
