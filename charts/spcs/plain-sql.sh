#!/bin/sh
# Prints an SQL file with its values filled in, as Snowflake's CLI would run it, for
# those who have no CLI: paste it into a worksheet of Snowsight, or pipe it into any
# program that runs SQL. Run it in this folder.
#
#   node=1 ./plain-sql.sh 40-kafka-plaintext.sql
#
# The values are those of snowflake.yml. A shell variable with the same name takes
# precedence. What is printed may have secrets in it (30-secrets.sql).
set -eu

file="${1:?say which file, such as 50-gateway.sql}"
[ -f "$file" ] || { echo "there is no $file in this folder" >&2; exit 1; }

awk '
  FNR == NR {  # snowflake.yml: the lines "  name: value  # comment" below env:
    if (/^env:/) env = 1
    if (env && match($0, /^  [a-z_]+:/)) {
      name = substr($0, 3, RLENGTH - 3)
      value = substr($0, RLENGTH + 1)
      sub(/^ +/, "", value)
      sub(/ +#.*$/, "", value)
      gsub(/"/, "", value)
      values[name] = value
    }
    next
  }
  {
    while (match($0, /<% *ctx\.env\.[a-z_]+( *\| *upper)? *%>/)) {
      before = substr($0, 1, RSTART - 1)
      after = substr($0, RSTART + RLENGTH)
      name = substr($0, RSTART, RLENGTH)
      upper = name ~ /upper/
      sub(/^<% *ctx\.env\./, "", name)
      sub(/[^a-z_].*$/, "", name)
      if (name in ENVIRON) value = ENVIRON[name]
      else if (name in values) value = values[name]
      else { print "there is no value for " name ": export " name "=..." > "/dev/stderr"; failed = 1; exit }
      printf "%s%s", before, upper ? toupper(value) : value
      $0 = after
    }
    print
  }
  END { exit failed }
' snowflake.yml "$file"
