-- Counts hits on many keys at once. For each key six arguments: algorithm (f, t, s), limit, hits (negative: given
-- back), window in microseconds, burst, and milliseconds that the key outlives its use. Answers, for each key:
-- allowed (0 or 1), hits remaining, microseconds until reset.
--
-- Says the same as `algorithm.rs`. Time is the server's, so that all who share it share one clock.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local out = {}
local floor, ceil, max, min, format = math.floor, math.ceil, math.max, math.min, string.format

for i = 1, #KEYS do
  local key, b = KEYS[i], (i - 1) * 6
  local algorithm, limit, hits = ARGV[b + 1], tonumber(ARGV[b + 2]), tonumber(ARGV[b + 3])
  local window, burst, outlive = tonumber(ARGV[b + 4]), tonumber(ARGV[b + 5]), tonumber(ARGV[b + 6])
  local allowed, remaining, reset = 1, 0, 0
  local value = redis.call('GET', key)

  if algorithm == 't' then
    local cost = window / max(limit, 1)
    local room = burst * cost
    local full_at = min(max(value and tonumber(value) or 0, now), now + room)
    local after = full_at + hits * cost
    if hits < 0 then
      after = max(after, now)
    -- A microsecond's thousandth is what doubles may miss.
    elseif after > now + room + 0.001 or (limit == 0 and hits > 0) then
      allowed = 0
    end
    if allowed == 1 then
      reset = after - now
      if after > now then
        redis.call('SET', key, format('%.3f', after), 'PX', ceil(reset / 1000) + outlive)
      elseif value then
        redis.call('DEL', key)
      end
    else
      after = full_at
      reset = max(after + min(hits * cost, room) - now - room, 0)
    end
    remaining = limit == 0 and 0 or max(floor((room - (after - now)) / cost + 0.000001), 0)
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
    local weighted = before > 0 and ceil(before * min(left, window) / window) or 0
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
