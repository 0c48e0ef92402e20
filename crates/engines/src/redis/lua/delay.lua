-- Keeps messages back. KEYS: stream, delayed.
-- ARGV: channel of hints, then per message: delay in ms, number of fields and values, and those. Answers 0 without a stream.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local i, turn = 2, 0
while i <= #ARGV do
  local count = tonumber(ARGV[i + 1])
  local fields = {unpack(ARGV, i + 2, i + 1 + count)}
  -- Messages that are due together keep the order in which they were published.
  local mark = string.format('%016d%06d', clock[1] * 1000000 + clock[2], turn)
  redis.call('ZADD', KEYS[2], now + ARGV[i], mark .. cmsgpack.pack(fields))
  i, turn = i + 2 + count, turn + 1
end
hint(ARGV[1])
return 1
