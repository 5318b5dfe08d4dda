-- A POST of a file's bytes; the figures come as a line of JSON at the end.
--
--   wrk … -s wrk.lua URL -- FILE "Header: value" …
--
-- The request is made once: with no global `request` and no `response`, wrk calls no Lua meanwhile.

function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   file:close()
   for i = 2, #args do
      local name, value = args[i]:match("^(.-): (.*)$")
      wrk.headers[name] = value
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"seconds": %.6f, "requests": %d, "connect": %d, "read": %d, "write": %d, ' ..
      '"timeout": %d, "status": %d, "p50_ms": %.3f, "p99_ms": %.3f, "p999_ms": %.3f}\n',
      summary.duration / 1e6, summary.requests, errors.connect, errors.read, errors.write,
      errors.timeout, errors.status, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      latency:percentile(99.9) / 1e3))
end
