// Receives signed requests (Standard Webhooks): SECRET=whsec_... PORT=9000 go run receiver.go
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const tolerance, maxBody, remembered = 5 * time.Minute, 1 << 20, 24 * time.Hour

var key, _ = base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv("SECRET"), "whsec_"))

// In production: a table with a unique column, written with what the request does.
var seen sync.Map

// isAuthentic says whether one of the signatures is ours; during a rotation there are two.
func isAuthentic(header http.Header, body []byte) bool {
	sentAt, err := strconv.ParseInt(header.Get("webhook-timestamp"), 10, 64)
	age := time.Since(time.Unix(sentAt, 0))
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", header.Get("webhook-id"), header.Get("webhook-timestamp"), body)
	expected, ok := []byte("v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil))), false
	for _, one := range strings.Split(header.Get("webhook-signature"), " ") {
		ok = hmac.Equal([]byte(one), expected) || ok
	}
	return ok && err == nil && -tolerance < age && age < tolerance
}

func receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	id := r.Header.Get("webhook-id")
	w.Header().Set("content-type", "application/json")
	if err != nil || !isAuthentic(r.Header, body) {
		w.WriteHeader(http.StatusUnauthorized)
	} else if _, repeated := seen.LoadOrStore(id, true); repeated {
		fmt.Fprintf(w, `{"repeated":%q}`, id)
	} else {
		time.AfterFunc(remembered, func() { seen.Delete(id) })
		fmt.Println("handled", id) // your work; where it fails, forget the id and answer 500
		fmt.Fprintf(w, `{"handled":%q,"bytes":%d}`, id, len(body))
	}
}

func main() {
	panic(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), http.HandlerFunc(receive)))
}
