// Pulls or signs an image as skopeo, podman and CRI-O do, with the library that they are built on. Debian's skopeo is built
// without sigstore signatures, and cannot stand in for it.
//
//	containers pull POLICY REGISTRIES.D //HOST/NAME:TAG FOLDER
//	containers sign KEY REGISTRIES.D //HOST/NAME:TAG //HOST/NAME:TAG     copies, and signs the copy
//
// What the policy refuses ends with exit code 1 and `Source image rejected: …`. The password is $COSIGN_PASSWORD.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containers/image/v5/copy"
	"github.com/containers/image/v5/directory"
	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
)

func main() {
	if len(os.Args) != 6 {
		end(fmt.Errorf("usage: containers pull POLICY|sign KEY REGISTRIES.D FROM TO"))
	}
	system := &types.SystemContext{RegistriesDirPath: os.Args[3], DockerInsecureSkipTLSVerify: types.OptionalBoolTrue}
	options := &copy.Options{SourceCtx: system, DestinationCtx: system}
	policy := &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}
	from, err := docker.ParseReference(os.Args[4])
	end(err)
	var to types.ImageReference
	switch os.Args[1] {
	case "pull":
		policy, err = signature.NewPolicyFromFile(os.Args[2])
		end(err)
		to, err = directory.NewReference(os.Args[5])
	case "sign":
		options.SignBySigstorePrivateKeyFile = os.Args[2]
		options.SignSigstorePrivateKeyPassphrase = []byte(os.Getenv("COSIGN_PASSWORD"))
		to, err = docker.ParseReference(os.Args[5])
	default:
		err = fmt.Errorf("no command %q", os.Args[1])
	}
	end(err)
	rules, err := signature.NewPolicyContext(policy)
	end(err)
	_, err = copy.Image(context.Background(), rules, to, from, options)
	end(err)
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
