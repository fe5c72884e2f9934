-- wrk's results as one line of JSON. With arguments ("Name: value"): request header fields.
function init(args)
  for _, field in ipairs(args) do
    local name, value = field:match("^([^:]+): (.*)$")
    wrk.headers[name] = value
  end
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %.6f, "bytes": %d, "p50_us": %d, "p99_us": %d, "errors": %d}\n', summary.requests,
    summary.duration / 1e6, summary.bytes, latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
