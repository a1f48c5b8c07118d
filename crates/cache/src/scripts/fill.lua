-- Stores a loaded value, unless somebody has changed or deleted the key since it was missed.
-- KEYS[1] the key
-- ARGV[1] the first ten bytes that stood there when it was missed, empty: nothing
-- ARGV[2] the value
-- ARGV[3] how long to keep it, in milliseconds
-- Answers 1 if it was stored, 0 if something else stands there now.
if redis.call('GETRANGE', KEYS[1], 0, 9) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
