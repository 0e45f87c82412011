// The state checker that Istio Admiral documents for disaster recovery with DynamoDB (istio-ecosystem/admiral,
// Apache-2.0), as the peer in the tests of lease-keeper: the document's names, decisions and calls through the same
// libraries, with its faults kept on purpose. Never run it for anything else. Left out are the ticker (a check runs
// for every line read from standard input) and logrus; added are the endpoint and what is printed after a check.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io/ioutil"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/credentials/stscreds"
	"github.com/aws/aws-sdk-go/aws/session"
	"github.com/aws/aws-sdk-go/service/dynamodb"
	"github.com/aws/aws-sdk-go/service/dynamodb/dynamodbattribute"
	"github.com/aws/aws-sdk-go/service/dynamodb/dynamodbiface"
	"gopkg.in/yaml.v2"
)

const skipLeaseCheckPodName = "SKIP-LEASE-POD"

type DynamoDBConfigWrapper struct {
	DynamoDBConfig DynamoDBConfig `yaml:"dynamoDB,omitempty"`
}

type DynamoDBConfig struct {
	LeaseName         string `yaml:"leaseName,omitempty"`
	PodIdentifier     string `yaml:"podIdentifier,omitempty"`
	WaitTimeInSeconds int    `yaml:"waitTimeInSeconds,omitempty"`
	FailureThreshold  int    `yaml:"failureThreshold,omitempty"`
	TableName         string `yaml:"tableName,omitempty"`
	Role              string `yaml:"role,omitempty"`
	Region            string `yaml:"region,omitempty"`
}

type ReadWriteLease struct {
	LeaseName   string `json:"leaseName"`
	LeaseOwner  string `json:"leaseOwner"`
	UpdatedTime int64  `json:"updatedTime"`
	Notes       string `json:"notes"`
}

// AdmiralState is what the rest of Admiral asks before it writes.
type AdmiralState struct {
	ReadOnly           bool
	IsStateInitialized bool
}

var CurrentAdmiralState = AdmiralState{ReadOnly: true}

// Report is printed after a check: the state, the lease as it was read, and the error of the scan or of the write.
type Report struct {
	ReadOnly    bool   `json:"readOnly"`
	Initialized bool   `json:"initialized"`
	Owner       string `json:"owner"`
	UpdatedTime int64  `json:"updatedTime"`
	Error       string `json:"error"`
}

type DynamoClient struct {
	svc dynamodbiface.DynamoDBAPI
}

func main() {
	configFile := flag.String("config", "", "the YAML `file` with Admiral's configuration of DynamoDB")
	flag.Parse()
	dynamoDBConfig, err := BuildDynamoDBConfig(*configFile)
	if err != nil {
		log.Fatal(err)
	}
	endpoint := os.Getenv("AWS_ENDPOINT_URL")
	if endpoint == "" {
		log.Fatal("AWS_ENDPOINT_URL is not set: this must never reach AWS")
	}
	client := &DynamoClient{svc: GetDynamoSvc(dynamoDBConfig.Role, dynamoDBConfig.Region, endpoint)}
	printed := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		lease, err := ExecuteStateCheck(dynamoDBConfig, client)
		report := Report{CurrentAdmiralState.ReadOnly, CurrentAdmiralState.IsStateInitialized,
			lease.LeaseOwner, lease.UpdatedTime, ""}
		if err != nil {
			report.Error = err.Error()
		}
		if err := printed.Encode(report); err != nil {
			log.Fatal(err)
		}
	}
}

// ExecuteStateCheck decides from the lease that it reads. The document drops what the writes return; here the caller
// may print it, but nothing is decided by it.
func ExecuteStateCheck(config DynamoDBConfig, client *DynamoClient) (ReadWriteLease, error) {
	currentTime := time.Now().UTC().Unix()
	readWriteLeases, err := client.getReadWriteLease()
	if err != nil {
		CurrentAdmiralState.ReadOnly = true
		log.Printf("Error retrieving the latest lease. Admiral will not write: %v", err)
		return ReadWriteLease{}, err
	}
	seen := filterOrCreateLeaseIfNotFound(readWriteLeases, config.LeaseName)
	lease := seen
	if lease.LeaseOwner == "" {
		log.Printf("Lease with name=%v does not exist. Creating a new lease", lease.LeaseName)
		lease.LeaseOwner = config.PodIdentifier
		lease.UpdatedTime = currentTime
		// The mode stays as it is until the next check confirms that this pod has the lease.
		err = client.updatedReadWriteLease(lease, config.TableName)
	} else if lease.LeaseOwner == skipLeaseCheckPodName {
		log.Print("Lease held by skip lease check pod. Admiral will not write")
		CurrentAdmiralState = AdmiralState{ReadOnly: true, IsStateInitialized: true}
	} else if lease.LeaseOwner == config.PodIdentifier {
		// Active before the renewal, and whether or not it succeeds.
		CurrentAdmiralState = AdmiralState{ReadOnly: false, IsStateInitialized: true}
		log.Printf("Lease with name=%v is owned by the current pod. Admiral will write", lease.LeaseName)
		lease.UpdatedTime = currentTime
		err = client.updatedReadWriteLease(lease, config.TableName)
	} else if lease.UpdatedTime < currentTime-int64(config.WaitTimeInSeconds*config.FailureThreshold) {
		log.Printf("Taking over the lease from %v, last updated at %v", lease.LeaseOwner, lease.UpdatedTime)
		lease.LeaseOwner = config.PodIdentifier
		lease.UpdatedTime = currentTime
		// The mode stays as it is, as above.
		err = client.updatedReadWriteLease(lease, config.TableName)
	} else {
		log.Printf("Lease held by %v till %v. Admiral will not write", lease.LeaseOwner, lease.UpdatedTime)
		CurrentAdmiralState = AdmiralState{ReadOnly: true, IsStateInitialized: true}
	}
	return seen, err
}

func filterOrCreateLeaseIfNotFound(allLeases []ReadWriteLease, leaseName string) ReadWriteLease {
	for _, readWriteLease := range allLeases {
		if readWriteLease.LeaseName == leaseName {
			return readWriteLease
		}
	}
	notes := "Created at " + strconv.FormatInt(time.Now().UTC().Unix(), 10)
	return ReadWriteLease{LeaseName: leaseName, Notes: notes}
}

// The whole item is replaced, on no condition.
func (client *DynamoClient) updatedReadWriteLease(lease ReadWriteLease, tableName string) error {
	av, err := dynamodbattribute.MarshalMap(lease)
	if err != nil {
		return err
	}
	_, err = client.svc.PutItem(&dynamodb.PutItemInput{Item: av, TableName: aws.String(tableName)})
	if err != nil {
		log.Printf("Got error calling PutItem: %v", err)
	}
	return err
}

// The table's name is fixed, the read is eventually consistent, and one item is reused for all records: an attribute
// that a record lacks keeps the value of the record before it.
func (client *DynamoClient) getReadWriteLease() ([]ReadWriteLease, error) {
	var readWriteLeases []ReadWriteLease
	readWriteLeaseEntries, err := client.svc.Scan(&dynamodb.ScanInput{TableName: aws.String("admiral-lease")})
	if err != nil {
		return nil, err
	}
	item := ReadWriteLease{}
	for _, v := range readWriteLeaseEntries.Items {
		if err = dynamodbattribute.UnmarshalMap(v, &item); err != nil {
			log.Panicf("Failed to unmarshall record: %v", err)
		}
		readWriteLeases = append(readWriteLeases, item)
	}
	return readWriteLeases, nil
}

// GetDynamoSvc differs from the document in its endpoint, and in naming the region for STS too, which there has to
// come from the environment.
func GetDynamoSvc(dynamoArn, region, endpoint string) *dynamodb.DynamoDB {
	sess := session.Must(session.NewSession(&aws.Config{Endpoint: &endpoint, Region: &region}))
	creds := stscreds.NewCredentials(sess, dynamoArn)
	config := aws.Config{Credentials: creds, Endpoint: &endpoint, Region: &region}
	return dynamodb.New(session.Must(session.NewSession(&config)))
}

func BuildDynamoDBConfig(configFile string) (DynamoDBConfig, error) {
	data, err := ioutil.ReadFile(configFile)
	dynamoDBConfigWrapper := &DynamoDBConfigWrapper{}
	if err != nil {
		return DynamoDBConfig{}, fmt.Errorf("error reading config file to build Dynamo DB config: %v", err)
	}
	err = yaml.Unmarshal(data, &dynamoDBConfigWrapper)
	if err != nil {
		return DynamoDBConfig{}, fmt.Errorf("error unmarshaling config file err: %v", err)
	}
	return dynamoDBConfigWrapper.DynamoDBConfig, nil
}
