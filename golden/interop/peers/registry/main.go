// A registry in memory that is not ours and has the Referrers API: CUE's ociregistry. Its address is the first line that
// it prints.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"

	"cuelabs.dev/go/oci/ociregistry/ocimem"
	"cuelabs.dev/go/oci/ociregistry/ociserver"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, ociserver.New(ocimem.New(), nil)))
}
