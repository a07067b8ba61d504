-- Counts hits on many keys at once. For each key six arguments: algorithm (f, t, s), limit, hits (negative: given
-- back), window in microseconds, burst, and milliseconds that the key outlives its use. Answers, for each key:
-- allowed (0 or 1), hits remaining, microseconds until reset.
--
-- Says the same as `algorithm.rs`. Time is the server's, so that all who share it share one clock; tests give it as one
-- more argument, in microseconds since the epoch.
local now = tonumber(ARGV[#KEYS * 6 + 1])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local out = {}
local floor, ceil, max, min, format = math.floor, math.ceil, math.max, math.min, string.format

for i = 1, #KEYS do
  local key, b = KEYS[i], (i - 1) * 6
  local algorithm, limit, hits = ARGV[b + 1], tonumber(ARGV[b + 2]), tonumber(ARGV[b + 3])
  local window, burst, outlive = tonumber(ARGV[b + 4]), tonumber(ARGV[b + 5]), tonumber(ARGV[b + 6])
  local allowed, remaining, reset = 1, 0, 0
  local value = redis.call('GET', key)

  if algorithm == 't' then
    -- When it was last touched, and what it lacked then. Its time runs `limit` times faster, so that a token costs a whole
    -- number, the window: a double has no room for parts of microseconds beside a time since the epoch.
    local scale, room = max(limit, 1), burst * window
    local touched, lacked = string.match(value or '', '^(%d+):(%d+)$')
    local missing = 0
    if touched then
      missing = min(max(tonumber(lacked) - (now - tonumber(touched)) * scale, 0), room)
    end
    local after = missing + hits * window
    if hits < 0 then
      after = max(after, 0)
    elseif after > room or (limit == 0 and hits > 0) then
      allowed = 0
    end
    if allowed == 1 then
      reset = after / scale
      if after > 0 then
        redis.call('SET', key, format('%.0f:%.0f', now, after), 'PX', ceil(reset / 1000) + outlive)
      elseif value then
        redis.call('DEL', key)
      end
    else
      after = missing
      reset = max(missing + min(hits * window, room) - room, 0) / scale
    end
    remaining = limit == 0 and 0 or floor((room - after) / window)
  else
    local index = floor(now / window)
    local at, count, before = 0, 0, 0
    if value then
      local a, c, p = string.match(value, '^(%d+):(%d+):(%d+)$')
      if a then at, count, before = tonumber(a), tonumber(c), tonumber(p) end
    end
    if index > at then
      before = (algorithm == 's' and index == at + 1) and count or 0
      at, count = index, 0
    end
    local left = (at + 1) * window - now
    if algorithm == 's' then left = min(left, window) end
    local weighted = before > 0 and ceil(before * left / window) or 0
    local was = count
    if hits < 0 then
      count = max(count + hits, 0)
    elseif weighted + count + hits <= limit then
      count = count + hits
    else
      allowed = 0
    end
    remaining = max(limit - weighted - count, 0)
    reset = left
    if allowed == 0 and before > 0 and limit >= count + hits then
      reset = max(left - floor((limit - count - hits) * window / before), 0)
    end
    if count ~= was then
      local windows = algorithm == 's' and window or 0
      redis.call('SET', key, format('%.0f:%.0f:%.0f', at, count, before),
        'PX', ceil((left + windows) / 1000) + outlive)
    end
  end
  local n = #out
  out[n + 1], out[n + 2], out[n + 3] = allowed, remaining, ceil(reset)
end
return out
