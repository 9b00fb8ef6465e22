#!/usr/bin/env bash
# Drives every row of Table 1 for every class with curl, and prints what each answered.
#
#     tests/openapi/drive.sh HTTP TOKEN_FILE COMPONENT [stop]
#
# HTTP is a node's address such as http://127.0.0.1:7451, TOKEN_FILE the file `token` in its data folder, COMPONENT a
# function that takes bytes (node/functions/digest/digest.wasm). With `stop` the node is told to stop at the end.
# The exit code is 1 if a row answered otherwise than it should. Needs curl and openssl 3.
set -euo pipefail

http=${1:?HTTP}
token=$(cat "${2:?TOKEN_FILE}")
component=${3:?COMPONENT}
stop=${4:-}
unique=$(date +%s)-$$
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wrong=0
rows=0

# call CLASS ROW EXPECTED METHOD PATH [curl arguments]: the answer's body is in $work/body, its head in $work/head.
call() {
    local class=$1 row=$2 expected=$3 method=$4 path=$5 status verdict=ok
    shift 5
    status=$(curl -sS --max-time 90 -o "$work/body" -D "$work/head" -w '%{http_code}' -X "$method" \
        -H "authorization: Bearer $token" "$@" "$http$path")
    if [[ ! $status =~ ^($expected)$ ]]; then
        verdict="WRONG, expected $expected: $(head -c 400 "$work/body")"
        wrong=$((wrong + 1))
    fi
    rows=$((rows + 1))
    printf '%-9s %-34s %-6s %s\n' "$class" "$row" "$status" "$verdict"
}

# json CLASS ROW EXPECTED PATH BODY [curl arguments]
json() {
    local class=$1 row=$2 expected=$3 path=$4 body=$5
    shift 5
    call "$class" "$row" "$expected" POST "$path" -H 'content-type: application/json' -d "$body" "$@"
}

# field NAME: the first text field of this name in the last answer.
field() {
    grep -o "\"$1\":\"[^\"]*\"" "$work/body" | head -n 1 | cut -d '"' -f 4 || true
}

# header NAME: a header of the last answer.
header() {
    sed -n "s/^$1: //ip" "$work/head" | tr -d '\r' | head -n 1
}

# key FILE: makes an ed25519 key and prints its public half in hexadecimal.
key() {
    openssl genpkey -algorithm ed25519 -out "$1" 2>/dev/null
    openssl pkey -in "$1" -pubout -outform DER | tail -c 32 | od -An -v -tx1 | tr -d ' \n'
}

# signed KEYFILE: the body of `apply` for the change that was prepared last: its bytes, signed for their purpose.
signed() {
    local bytes
    bytes=$(field bytes)
    { printf 'shoal/change/v1\0'; printf '%s' "$bytes" | openssl base64 -d -A; } >"$work/covered"
    openssl pkeyutl -sign -rawin -inkey "$1" -in "$work/covered" -out "$work/signature"
    printf '{"change":{"bytes":"%s","signature":"%s"}}' "$bytes" "$(od -An -v -tx1 "$work/signature" | tr -d ' \n')"
}

printf '%-9s %-34s %-6s %s\n' CLASS ROW STATUS ''

public=$(key "$work/new.pem")
own=$(key "$work/own.pem")
call user 'GET /user' 200 GET /user
call user 'GET /user/:object_id' 200 GET /user/me
me=$(field id)
json user 'POST /user' 201 /user "{\"name\":\"drive-$unique\"}"
user=$(field id)
call user 'GET /user/:object_id (name)' 200 GET "/user/drive-$unique"
etag=$(header etag)
json user 'POST /user/:object_id' 200 "/user/$user" '{"labels":{"driven":"yes"}}' -H "if-match: $etag"
json user 'POST /user/:object_id (stale ETag)' 412 "/user/$user" '{"labels":{"driven":"no"}}' -H "if-match: $etag"
json user 'POST /user/new/prepare' 200 "/user/new/prepare?author=$public" "{\"name\":\"signed-$unique\"}"
founded=$(field document)
json user 'POST /user/:object_id/apply' 200 "/user/$founded/apply" "$(signed "$work/new.pem")"
json user 'POST /user/:object_id/add_key' 200 "/user/$me/add_key" "{\"key\":\"$own\",\"note\":\"drive.sh\"}"
json user 'POST /user/:object_id/prepare' 200 "/user/$founded/prepare?author=$public" '{"labels":{"signed":"yes"}}'
json user 'POST /user/:object_id/apply' 200 "/user/$founded/apply" "$(signed "$work/new.pem")"

json project 'POST /project' 201 /project "{\"name\":\"drive-$unique\"}"
project=$(field id)
call project 'GET /project' 200 GET /project
call project 'GET /project/:object_id' 200 GET "/project/$project"
json project 'POST /project/:object_id' 200 "/project/$project" '{"labels":{"driven":"yes"}}'
json project 'POST /project/:object_id/prepare' 200 "/project/$project/prepare?author=$own" '{"labels":{"signed":"yes"}}'
json project 'POST /project/:object_id/apply' 200 "/project/$project/apply" "$(signed "$work/own.pem")"
json project 'POST /project/:object_id/add_member' 200 "/project/$project/add_member" "{\"user\":\"$user\"}"
json project 'POST /project/:object_id/remove_member' 200 "/project/$project/remove_member" "{\"user\":\"$user\"}"

call blob 'POST /blob' 201 POST "/blob?name=component" --data-binary "@$component"
code=$(field id)
printf 'hello, %s' "$unique" >"$work/bytes"
call blob 'POST /blob?keep=true' 201 POST '/blob?keep=true&name=drive' --data-binary "@$work/bytes"
blob=$(field id)
call blob 'GET /blob' 200 GET /blob
call blob 'GET /blob/:object_id' 200 GET "/blob/$blob"
json blob 'POST /blob/:object_id' 200 "/blob/$blob" '{"name":"renamed"}'
call blob 'POST /blob/:object_id/keep' 200 POST "/blob/$blob/keep"
call blob 'POST /blob/:object_id/release' 200 POST "/blob/$blob/release"
call blob 'GET /blob/:object_id/content' 200 GET "/blob/$blob/content"
cmp "$work/body" "$work/bytes" || wrong=$((wrong + 1))
call blob 'GET /blob/:object_id/content (range)' 206 GET "/blob/$blob/content" -r 7-
[[ $(cat "$work/body") == "$unique" ]] || wrong=$((wrong + 1))
call blob 'GET /blob/:object_id/content (416)' 416 GET "/blob/$blob/content" -r 4096-

json function 'POST /function' 201 /function "{\"name\":\"drive-$unique\",\"component\":\"$code\",\"grants\":[\"blob\"]}"
function=$(field id)
call function 'GET /function' 200 GET "/function?name=drive-$unique"
call function 'GET /function/:object_id' 200 GET "/function/$function"
json function 'POST /function/:object_id' 200 "/function/$function" '{"description":"driven"}'
json function 'POST /function/:object_id/activate' 200 "/function/$function/activate" '{"version":1}'
json function 'POST /function/:object_id/prepare' 200 "/function/$function/prepare?author=$own" '{"description":"signed"}'
json function 'POST /function/:object_id/apply' 200 "/function/$function/apply" "$(signed "$work/own.pem")"

json job 'POST /job' 202 /job "{\"function\":\"$function\",\"input\":{\"text\":\"hello\"}}"
job=$(field id)
[[ $(header location) == "/job/$job" ]] || { echo "wrong Location: $(header location)"; wrong=$((wrong + 1)); }
json job 'POST /job (batch)' 202 /job "[{\"function\":\"$function\"},{\"function\":\"no-such-function\"}]"
call job 'GET /job' 200 GET '/job?limit=5'
json job 'POST /job/:object_id/wait' 200 "/job/$job/wait" '{"timeout_ms":60000}'
[[ $(field state) == succeeded ]] || { echo "the job did not succeed: $(cat "$work/body")"; wrong=$((wrong + 1)); }
call job 'GET /job/:object_id' 200 GET "/job/$job"
call job 'GET /job/:object_id/result' 200 GET "/job/$job/result"
[[ -s $work/body ]] || { echo 'the result is empty'; wrong=$((wrong + 1)); }
call job 'GET /job/:object_id/result (range)' 206 GET "/job/$job/result" -r 0-3
call job 'GET /job/:object_id/logs' 200 GET "/job/$job/logs"
call job 'GET /job/:object_id/logs?follow=true' 200 GET "/job/$job/logs?follow=true"
grep -q '^event: end' "$work/body" || { echo 'the events have no end'; wrong=$((wrong + 1)); }
json job 'POST /job' 202 /job "{\"function\":\"$function\",\"needs\":{\"labels\":{\"nowhere\":\"$unique\"}}}"
waiting=$(field id)
json job 'POST /job/:object_id' 200 "/job/$waiting" '{"name":"driven"}'
call job 'POST /job/:object_id/cancel' 200 POST "/job/$waiting/cancel"
call job 'DELETE /job/:object_id' 204 DELETE "/job/$waiting"
call job 'GET /job/:object_id (forgotten)' 404 GET "/job/$waiting"

call kv 'GET /kv' 200 GET /kv
json kv 'POST /kv' 405 /kv '{}'
call kv 'GET /kv/:object_id' 200 GET "/kv/$me"
json kv 'POST /kv/:object_id' 200 "/kv/$project" '{"a":{"text":"one"},"b":null}'
json kv 'POST /kv/:object_id/set' 200 "/kv/$project/set" '{"key":"c","value":{"text":"three"}}'
json kv 'POST /kv/:object_id/get' 200 "/kv/$project/get" '{"key":"c"}'
json kv 'POST /kv/:object_id/list' 200 "/kv/$project/list" '{"prefix":""}'
json kv 'POST /kv/:object_id/incr' 200 "/kv/$project/incr" '{"key":"n","amount":2}'
json kv 'POST /kv/:object_id/cas?scope=local' 200 "/kv/$project/cas?scope=local" '{"key":"d","value":{"text":"x"},"version":0}'
json kv 'POST /kv/:object_id/cas (other version)' 412 "/kv/$project/cas?scope=local" '{"key":"d","value":{"text":"y"},"version":0}'
json kv 'POST /kv/:object_id/watch' 200 "/kv/$project/watch" '{"key":"c","timeout_ms":1000}'
json kv 'POST /kv/:object_id/delete' 204 "/kv/$project/delete" '{"key":"c"}'
json kv 'POST /kv/:object_id/get (deleted)' 404 "/kv/$project/get" '{"key":"c"}'
call kv 'DELETE /kv/:object_id' 204 DELETE "/kv/$project"

call worker 'GET /worker' 200 GET /worker
worker=$(field id)
call worker 'GET /worker/:object_id' 200 GET "/worker/$worker"
json worker 'POST /worker' 201 /worker '{"name":"driven"}'
json worker 'POST /worker/:object_id' 200 "/worker/$worker" '{"cordoned":true}'
call worker 'POST /worker/:object_id/uncordon' 200 POST "/worker/$worker/uncordon"
call worker 'POST /worker/:object_id/cordon' 200 POST "/worker/$worker/cordon"
call worker 'POST /worker/:object_id/uncordon' 200 POST "/worker/$worker/uncordon"
call worker 'DELETE /worker/:object_id' 204 DELETE "/worker/$worker"

call node 'GET /node' 200 GET /node
node=$(field id)
call node 'GET /node/:object_id' 200 GET "/node/$node"
json node 'POST /node' 405 /node '{}'
[[ $(header allow) == 'GET, HEAD' ]] || { echo "wrong Allow: $(header allow)"; wrong=$((wrong + 1)); }
json node 'POST /node/:object_id' 200 "/node/$node" '{"labels":{"driven":"yes"}}'
json node 'POST /node/:object_id' 200 "/node/$node" '{"labels":{"driven":null}}'
call node 'DELETE /node/:object_id' 405 DELETE "/node/$node"
for page in / /healthz /metrics /openapi.json; do call - "GET $page" 200 GET "$page"; done

call function 'DELETE /function/:object_id' 204 DELETE "/function/$function"
call project 'DELETE /project/:object_id' 204 DELETE "/project/$project"
call user 'DELETE /user/:object_id' 204 DELETE "/user/$user"
call user 'DELETE /user/:object_id' 204 DELETE "/user/$founded"
call blob 'DELETE /blob/:object_id' 204 DELETE "/blob/$blob"
[[ $stop != stop ]] || call node 'POST /node/:object_id/stop' 202 POST "/node/$node/stop"

echo "$rows calls, $wrong wrong"
[[ $wrong -eq 0 ]]
